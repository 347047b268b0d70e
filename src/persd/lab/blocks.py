"""A function as a row of blocks, each turning one variable into the next.

The embedded student writes one block per step. Where the steps of a solution are known, an
attempt is compared with them block by block: which of its blocks can stay, in which places,
if the others come from the solution? Variables are renamed so that the row hangs together.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from persd.lab import edits
from persd.lab.family import Chain, Link

_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive statements of a function's body."""

    text: str
    """Its lines without the body's indentation, each ending in a newline."""
    reads: str | None
    """The variable it works on; None: none or several, or it does not parse."""
    writes: str | None
    """The variable it makes; None: it returns its value at once."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of one argument, taken apart."""

    head: str
    """Everything up to and with the line that opens the function."""
    argument: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """For each step of the solution the index of the attempt's block that does it, or None."""

    source: tuple[int | None, ...]

    @property
    def kept(self) -> int:
        return sum(i is not None for i in self.source)

    def keep(self, step: int, block: int) -> Plan:
        """The plan with one more of the attempt's blocks in its place."""
        return Plan((*self.source[:step], block, *self.source[step + 1 :]))


@dataclass(frozen=True, slots=True)
class Part:
    """One step of an assembled program: its 1-based lines and its variables."""

    lines: range
    reads: str
    writes: str | None


@dataclass(frozen=True, slots=True)
class Assembly:
    """A program put together by a plan, a part for each step."""

    code: str
    parts: tuple[Part, ...]


def take_apart(code: str, entry_point: str) -> Function | None:
    """The blocks of the entry point; None where it is no plain function of one argument.

    Works on lines, so one block that does not parse does not hide the others.
    """
    lines = code.splitlines()
    opening = re.compile(rf"def {re.escape(entry_point)}\((\w+)\)\s*:\s*$")
    found = next(((i, m) for i, line in enumerate(lines) if (m := opening.match(line))), None)
    if found is None:
        return None
    at, argument = found[0], found[1][1]
    body = [line for line in lines[at + 1 :] if line.strip()]
    if not body or not all(line.startswith(_INDENT) for line in body):
        return None
    known = [argument]
    blocks: list[Block] = []
    for text in _group(body):
        block = _read(text, known)
        if block is not None:
            blocks.append(block)
            known += [block.writes] if block.writes else []
    return Function("\n".join(lines[: at + 1]) + "\n", argument, tuple(blocks))


def plans(blocks: int, steps: int) -> Iterator[Plan]:
    """Every way to keep some of the attempt's blocks, in their order; most kept first."""
    for kept in range(min(blocks, steps), 0, -1):
        found = []
        for places in itertools.combinations(range(steps), kept):
            for chosen in itertools.combinations(range(blocks), kept):
                at = dict(zip(places, chosen, strict=True))
                moved = sum(abs(place - block) for place, block in at.items())
                found.append((moved, tuple(at.get(j) for j in range(steps))))
        found.sort(key=lambda f: (f[0], [-1 if i is None else i for i in f[1]]))
        yield from (Plan(source) for _, source in found)


def assemble(function: Function, chain: Chain, plan: Plan) -> Assembly | None:
    """The program of a plan; None where a block of the plan cannot stay."""
    name, used = function.argument, {function.argument}
    code = function.head
    parts: list[Part] = []
    for step, chosen in enumerate(plan.source):
        block = function.blocks[chosen] if chosen is not None else None
        beside = step if len(function.blocks) == len(chain) else None
        wanted = block or (function.blocks[beside] if beside is not None else None)
        out: str | None = _fresh(wanted.writes if wanted else None, used)
        if block and block.writes is None and step + 1 == len(chain):
            out = None
        text = _rewire(block, name, out) if block else _donate(chain[step], name, out or "")
        if text is None:
            return None
        start = code.count("\n") + 1
        code += textwrap.indent(text, _INDENT)
        parts.append(Part(range(start, code.count("\n") + 1), name, out))
        if out is not None:
            used.add(out)
            name = out
    if parts[-1].writes is not None:
        code += f"{_INDENT}return {name}\n"
    return Assembly(code, tuple(parts))


def pair_up(plan: Plan, blocks: int) -> dict[int, int]:
    """For steps taken from the solution, the attempt's block that stood in their place."""
    kept = [(step, block) for step, block in enumerate(plan.source) if block is not None]
    bounds = [(-1, -1), *kept, (len(plan.source), blocks)]
    pairs: dict[int, int] = {}
    for (step, block), (next_step, next_block) in itertools.pairwise(bounds):
        if next_step - step == next_block - block:
            pairs |= {step + n: block + n for n in range(1, next_step - step)}
    return pairs


def with_edit(function: Function, block: int, part: Part, before: str, after: str) -> Function:
    """The function with one block as it stands in ``after``, an edit of ``before`` at ``part``."""
    grown = after.count("\n") - before.count("\n")
    lines = after.splitlines(keepends=True)[part.lines.start - 1 : part.lines.stop - 1 + grown]
    changed = Block(textwrap.dedent("".join(lines)), part.reads, part.writes)
    kept = function.blocks
    return replace(function, blocks=(*kept[:block], changed, *kept[block + 1 :]))


def _group(body: Sequence[str]) -> list[str]:
    """Lines by block: one starts at an assignment to a name, or at a return."""
    groups: list[list[str]] = []
    for line in body:
        plain = line[len(_INDENT) :]
        if not groups or re.match(r"(\w+ = |return\b)", plain):
            groups.append([])
        groups[-1].append(plain)
    return ["".join(f"{line}\n" for line in group) for group in groups]


def _read(text: str, known: Sequence[str]) -> Block | None:
    """A block with what it reads and writes; None for a bare ``return name``."""
    tree = edits.parse(text)
    if tree is None:
        match = re.match(r"(\w+) = ", text)
        return Block(text, None, match[1] if match else None)
    first = tree.body[0]
    if isinstance(first, ast.Return):
        if isinstance(first.value, ast.Name) or first.value is None:
            return None
        writes = None
    else:
        target = first.targets[0] if isinstance(first, ast.Assign) else None
        writes = target.id if isinstance(target, ast.Name) else None
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    stored = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    loaded = {n.id for n in names if isinstance(n.ctx, ast.Load)} - stored
    reads = [n for n in dict.fromkeys(known) if n in loaded]
    reads = reads or sorted(n for n in loaded if not hasattr(builtins, n))  # a name never made
    returns = isinstance(first, ast.Return)
    sound = len(reads) == 1 and (writes is not None or returns)
    return Block(text, reads[0] if sound else None, writes)


def _rewire(block: Block, name: str, out: str | None) -> str | None:
    """The block reading ``name`` and writing ``out`` (None: returning its value)."""
    if block.reads is None:
        return None
    text = block.text
    if block.writes is None and out is not None:
        text = f"{out} = {text.removeprefix('return ')}"
    names = {block.reads: name}
    if block.writes is not None and out is not None:
        names[block.writes] = out
    return edits.rename(text, {old: new for old, new in names.items() if old != new})


def _donate(link: Link, name: str, out: str) -> str:
    return "".join(f"{link.fill(line, x=name, o=out)}\n" for line in link.step.loop)


def _fresh(wanted: str | None, used: set[str]) -> str:
    free = (c for c in "abcdefgh" if c not in used)
    return wanted if wanted and wanted not in used else next(free)
