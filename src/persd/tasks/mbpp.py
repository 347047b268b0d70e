"""MBPP (Austin et al. 2021): ids 601-974 train, 11-510 test, 511-600 validation, 1-974 all.

Every problem comes with three asserts and no header. The header is the reference's ``def``
line; the first assert is shown in the instruction (its argument types are part of the task)
and is the seen test, the others are hidden, so that seen and hidden tests share no call. In
``all``, which is for judging what others have written, every assert is hidden, as in the
benchmark. Sanitized MBPP is the 427 problems that were gone over by hand, under the same ids.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from persd.domains.layout import Function
from persd.domains.names import Names, parse
from persd.records import Task, Test
from persd.sandbox.split import as_test
from persd.tasks import Split
from persd.tasks.hub import hub_rows
from persd.tasks.rows import (
    Fault,
    Row,
    Wrong,
    call_fault,
    call_keys,
    is_literal,
    read_rows,
    shown,
)

HUB_ID = "google-research-datasets/mbpp"
IDS = {
    "train": range(601, 975),
    "test": range(11, 511),
    "validation": range(511, 601),
    "all": range(1, 975),
}
HUB_ALL = "train+test+validation+prompt"


def read(
    path: str | None, *, split: Split = "train", config: str = "full"
) -> Iterator[Task | Fault]:
    """The tasks of a split, from a local file (None: from the Hub, of whose ``config``). Their
    id is the integer."""
    hub_split = HUB_ALL if split == "all" else split
    rows = read_rows(path) if path is not None else hub_rows(HUB_ID, config, hub_split)
    for row in rows:
        if isinstance(row, Fault):
            yield row
            continue
        try:
            number = number_of(row)
            if number in IDS[split]:
                yield task_of(row, number, show_first=split != "all")
        except Wrong as wrong:
            yield row.fault(wrong)


def number_of(row: Row) -> int:
    """The integer of ``11``, ``"11"`` or ``"Mbpp/11"``. Raises Wrong for anything else."""
    found = row.fields.get("task_id")
    if found is None:
        raise Wrong("missing_key", f'no "task_id" (the row has {row.keys})')
    where, _, text = str(found).rpartition("/")
    if isinstance(found, bool) or not text.isdecimal() or where.lower() not in ("", "mbpp"):
        raise Wrong("wrong_type", f'"task_id" is {shown(found)}, not MBPP\'s integer')
    return int(text)


def task_of(row: Row, number: int, *, show_first: bool, more: bool = False) -> Task:
    """A row as a task; ``show_first``: its first assert is shown, and so not hidden (all are,
    where no other would be left, unless there is ``more`` to test it by). Raises Wrong.
    """
    text = row.text("text") if "text" in row.fields else row.text("prompt")
    code = row.text("code")
    asserts = [line.strip() for line in row.texts("test_list")]
    if not asserts:
        raise Wrong("no_tests", '"test_list" is empty', 'Give "test_list": ["assert f(1) == 2"]')
    entry = _entry(code, asserts)
    first = _as_test(asserts[0], entry.name)
    seen = (first,) if first is not None else ()
    shared = call_keys(asserts[0], {entry.name})
    hidden = [line for line in asserts[1:] if not call_keys(line, {entry.name}) & shared]
    if not (show_first and seen and (hidden or more)):
        seen, hidden = (), asserts
    tests = [_as_test(line, entry.name) for line in hidden]
    simple = [t for t in tests if t is not None]
    whole = len(simple) == len(hidden)
    return Task(
        task_id=str(number),
        instruction=f"{text.strip()}\n{asserts[0]}" if seen else text.strip(),
        header=_header(code, entry),
        entry_point=entry.name,
        tests=tuple(simple) if whole else (),
        seen_tests=seen,
        test_code=None if whole else _test_code(entry.name, hidden),
        reference=code,
        setup=_setup(row, code, entry, asserts),
        source=row.where,
    )


# ---- the entry point and its header ----------------------------------------------------------


def _entry(code: str, asserts: list[str]) -> Function:
    """The reference's function that the asserts call. Raises Wrong where there is none."""
    try:
        tree = parse(code)
        called = [
            n.func.id
            for line in asserts
            for n in ast.walk(parse(line))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        ]
    except SyntaxError as error:
        raise Wrong("bad_reference", f"does not parse: {error.msg}") from None
    functions = {n.name: n for n in tree.body if isinstance(n, Function)}
    for name in called:
        if name in functions:
            return functions[name]
    raise Wrong("bad_test", f"the asserts call no function of the reference ({shown(asserts[0])})")


def _header(code: str, entry: Function) -> str:
    """``def name(parameters):`` with the imports its annotations and defaults need."""
    arguments = ast.unparse(entry.args)
    returns = f" -> {ast.unparse(entry.returns)}" if entry.returns else ""
    kind = "async def" if isinstance(entry, ast.AsyncFunctionDef) else "def"
    line = f"{kind} {entry.name}({arguments}){returns}:\n"
    needed = Names(parse(line + "    pass")).undefined()
    imports = [
        ast.unparse(n)
        for n in parse(code).body
        if isinstance(n, (ast.Import, ast.ImportFrom, ast.Assign))
        and Names(ast.Module([n], [])).module.bound & needed
    ]
    return "".join(f"{i}\n" for i in imports) + ("\n\n" if imports else "") + line


def _setup(row: Row, code: str, entry: Function, asserts: list[str]) -> str:
    """The tests' setup, with the classes and helpers of the reference that the tests build on."""
    setup = row.text("test_setup_code", "") or "\n".join(row.texts("test_imports"))
    try:
        needed = Names(parse("\n".join([setup, *asserts]))).undefined()
    except SyntaxError as error:
        raise Wrong("bad_test", f'"test_setup_code" does not parse: {error.msg}') from None
    helpers = [
        f"{ast.get_source_segment(code, node)}\n\n\n"
        for node in parse(code).body
        if node is not entry
        and Names(ast.Module([node], [])).module.bound & (needed - {entry.name})
    ]
    return ("".join(helpers) + setup.strip()).rstrip() + "\n" if helpers or setup.strip() else ""


# ---- asserts ---------------------------------------------------------------------------------


def _as_test(line: str, entry_point: str) -> Test | None:
    """The assert as a test of one value; None: only running it is exact.

    A call whose arguments are built by the task's setup is made in the program's process.
    """
    body = parse(line).body
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        return None
    claim = body[0].test
    if isinstance(claim, ast.Compare) and [type(o) for o in claim.ops] == [ast.Eq]:
        call, expected = (ast.unparse(side) for side in (claim.left, claim.comparators[0]))
        if not call_fault(call, entry_point) and is_literal(expected):
            return Test(call, expected, "equal")
    return as_test(body[0], entry_point, entry_point)


def _test_code(entry_point: str, asserts: list[str]) -> str:
    lines = [f"    {entry_point} = candidate", *(f"    {line}" for line in asserts)]
    return "def check(candidate):\n" + "\n".join(lines) + "\n"
