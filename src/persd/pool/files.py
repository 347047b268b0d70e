"""Tasks from any source, and task files: read twice, so that nothing has to be held.

The first reading finds which tasks go where; the second copies them. A file of the user's own is
copied row by row as it is, byte for byte: keys we do not know, spacing and all. Of other sources
a task is written in the contract (``row_of``), which ``persd.tasks.jsonl`` reads.
"""

from __future__ import annotations

import gzip
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path
from typing import Any, BinaryIO

from persd import tasks as task_sources
from persd.errors import UserError
from persd.files import refuse_target, replacing
from persd.progress import QUIET, Progress
from persd.records import Task, Test
from persd.tasks import items_of
from persd.tasks.rows import Fault, Row, call_fault, lines_of, read_rows

#: A place of a task in what is written: none.
NOWHERE = -1
_WHAT = "the tasks"


@dataclass(slots=True)
class Source:
    """Tasks by the name of a source or from a task file, to be read as often as needed."""

    name: str
    data: Path | None = None
    """Local file of a source that is a benchmark; None: the Hub."""
    unsafe: bool = False
    _stamp: tuple[int, int] | None = field(default=None, init=False)

    @property
    def own(self) -> Path | None:
        """The task file it is; None: a source by name."""
        if self.name == "jsonl":
            return self.data
        if self.name in task_sources.SOURCES:
            return None
        return Path(self.name)

    def items(self) -> Iterator[Task | Fault]:
        """Every row as a task or a fault; of MBPP the training and the test tasks.

        Raises UserError for an unknown source, and for a file that cannot be read.
        """
        own = self.own
        if own is None or not own.is_file():  # a name that is neither is told there
            yield from items_of(self.name, self.data, None, unsafe=self.unsafe)
            return
        self._note(own)
        yield from items_of("jsonl", own, None)

    def tasks(self, progress: Progress = QUIET) -> Iterator[Task]:
        """The tasks, in order. Raises UserError at the first row that is none."""
        for item in self.items():
            if isinstance(item, Fault):
                raise item.error()
            yield item
            progress.step()

    def _note(self, own: Path) -> None:
        """Raises UserError where the file is another than when it was read first."""
        found = own.stat()
        stamp = found.st_size, found.st_mtime_ns
        if self._stamp not in (None, stamp):
            raise UserError("it changed while it was read", where=str(own), hint="Run it again")
        self._stamp = stamp

    def copy(
        self, outs: Sequence[Path], place: Callable[[int], int], progress: Progress = QUIET
    ) -> list[int]:
        """Writes the tasks, in their order, to the files that ``place`` gives by a task's number
        (``NOWHERE``: left out); whole or not at all. Gives how many went to each.

        Raises UserError where a file cannot be written.
        """
        own, counts = self.own, [0] * len(outs)
        rows = map(_encoded, self.tasks()) if own is None else _rows_as_they_are(own)
        with ExitStack() as stack:
            puts = [stack.enter_context(_writing(out)) for out in outs]
            for number, row in enumerate(rows):
                if (where := place(number)) != NOWHERE:
                    puts[where](row)
                    counts[where] += 1
                progress.step()
            if own is not None:
                self._note(own)
        return counts


def refuse_outs(outs: Sequence[Path], inputs: Iterable[Path | None]) -> list[Path]:
    """Those of the files that are there and will be replaced: task files, all of them.

    Raises UserError, before any work is done, for a file that is read, that is given twice, that
    holds something else or that cannot be written.
    """
    taken = {realpath(p): p for p in inputs if p is not None}
    for out in outs:
        refuse_target(out, _WHAT)
        if realpath(out) in taken:
            what = f"cannot write {_WHAT}: the same file is read, or written twice"
            raise UserError(what, where=str(out), hint="give --out another file")
        taken[realpath(out)] = out
        if out.exists() and out.stat().st_size and not _is_task_file(out):
            what = f"cannot write {_WHAT}: the file is there, and is no task file"
            raise UserError(what, where=str(out), hint="give --out another file, or remove it")
    return [out for out in outs if out.exists()]


def _is_task_file(path: Path) -> bool:
    try:
        first = next(read_rows(path), None)
    except UserError:
        return False
    return isinstance(first, Row) and {"task_id", "entry_point"} <= first.fields.keys()


def read_against(given: Sequence[str], *, unsafe: bool = False) -> dict[str, list[Task]]:
    """Benchmarks by name, of ``NAME`` or ``NAME=FILE`` each: what is evaluated on, so of MBPP
    and of lab the test tasks; or a task file.

    Raises UserError for one that is given twice or cannot be read.
    """
    found: dict[str, list[Task]] = {}
    for text in given:
        name, is_given, path = text.partition("=")
        if name in found:
            raise UserError(f"--against {name} is given twice", hint="Give each benchmark once")
        try:
            tasks = task_sources.load(name, path=path or None, split="test", unsafe=unsafe)
            found[name] = list(tasks)
        except UserError as error:
            hint = error.hint if is_given else f"Give its file: --against {name}=FILE"
            what = f"nothing can be held against {name}: {error.what}"
            raise UserError(what, where=error.where, hint=hint) from error
        if not found[name]:
            raise UserError("it holds no task", where=path or name, hint="Give another --against")
    return found


# -- rows ---------------------------------------------------------------------------------------


def write_tasks(path: Path, tasks: Iterable[Task], what: str = _WHAT) -> int:
    """Writes a task file in the contract, whole or not at all; how many tasks it holds.

    Its name says how: ``.json`` one list, else a line a task; ``.gz`` packed. ``what`` names it
    in an error. Raises UserError where it cannot be written.
    """
    return write_rows(path, map(row_of, tasks), what)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], what: str = _WHAT) -> int:
    """The same of rows that are there already."""
    count = 0
    with _writing(path, what) as put:
        for count, row in enumerate(rows, 1):  # noqa: B007
            put(_encoded_row(row))
    return count


def row_of(task: Task) -> dict[str, Any]:
    """A task as a row of the contract; what it has not is left out. Reading the row gives the
    task again, but for ``source``; a task without a test is none to its reader.

    Benchmarks have a few tests of more than a call (``tuple(f(x))``), which are no tests of the
    contract: they become assertions of ``test_code``, with the others of their task.
    """
    tests, seen = _calls(task, task.tests), _calls(task, task.seen_tests)
    row: dict[str, Any] = {
        "task_id": task.task_id,
        "instruction": task.instruction,
        "entry_point": task.entry_point,
        "header": task.header,
        "tests": [_test(t) for t in tests] if len(tests) == len(task.tests) else [],
        "seen_tests": [_test(t) for t in seen],
        "test_code": task.test_code if len(tests) == len(task.tests) else _asserting(task),
        "reference": task.reference,
        "setup": task.setup,
        "meta": dict(task.meta),
    }
    kept = ("task_id", "instruction", "entry_point", "header")
    return {k: v for k, v in row.items() if k in kept or v not in (None, "", [], {})}


def _calls(task: Task, tests: Sequence[Test]) -> list[Test]:
    return [t for t in tests if not call_fault(t.call, task.entry_point)]


def _asserting(task: Task) -> str:
    lines = [f"{task.entry_point} = candidate"]
    lines += [f"assert ({t.call}) == ({t.expected})" for t in task.tests]
    return "def check(candidate):\n" + "".join(f"    {line}\n" for line in lines)


def _test(test: Test) -> dict[str, Any]:
    row: dict[str, Any] = {"call": test.call, "expected": test.expected}
    if test.compare != "value":
        row["compare"] = test.compare
    return row if test.tolerance is None else {**row, "tolerance": test.tolerance}


def _encoded(task: Task) -> bytes:
    return _encoded_row(row_of(task))


def _encoded_row(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # lone surrogates
        return json.dumps(row).encode()


def _rows_as_they_are(path: Path) -> Iterator[bytes]:
    """The rows of a task file in which no row is broken, each in one line."""
    for number, line in lines_of(path):
        line = line.removeprefix(BOM_UTF8) if number == 1 else line
        if line.lstrip()[:1] == b"[":
            yield from _rows_of_list(line.decode())
        elif line.strip():
            yield _in_one_line(line)


def _rows_of_list(text: str) -> Iterator[bytes]:
    decode, at = json.JSONDecoder().raw_decode, text.index("[")
    while (found := _VALUE.match(text, at + 1)) and found["first"] != "]":
        start = found.start("first")
        _, at = decode(text, start)
        yield _in_one_line(text[start:at].encode())
        at = _VALUE.match(text, at).start("first")  # type: ignore[union-attr]


#: What comes next in a list: a value, a comma or its end.
_VALUE = re.compile(r"\s*(?P<first>\S)")


def _in_one_line(row: bytes) -> bytes:
    """A row as it is, but for line ends: in JSON they stand between tokens only."""
    return re.sub(rb"\s*[\r\n]\s*", b" ", row.strip(b"\r\n"))


@contextmanager
def _writing(path: Path, what: str = _WHAT) -> Iterator[Callable[[bytes], None]]:
    """Puts rows in a file, which is there once it is whole."""
    packed = path.suffix == ".gz"
    is_list = path.name.removesuffix(".gz").endswith(".json")
    with replacing(path, what, folder=True) as unfinished, ExitStack() as stack:
        file: BinaryIO = stack.enter_context(unfinished.open("wb"))
        if packed:  # without the time, so that the same tasks are the same bytes
            packing = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
            file = stack.enter_context(packing)  # type: ignore[assignment]
        before, after = (b"[\n", b"") if is_list else (b"", b"\n")

        def put(row: bytes) -> None:
            nonlocal before
            file.write(before + row + after)
            before = b",\n" if is_list else b""

        yield put
        if is_list:
            file.write(b"[]\n" if before[:1] == b"[" else b"\n]\n")
