"""From a teacher's reply to the tasks it holds.

What is asked for is ``authoring.render``'s form. Models keep to it more or less, so read as
well: headings of another style, no headings, calls that stand in the program (bare, asserted,
printed) or in its docstring, JSON. What the reader cannot tell is left as it was told, for
``pool.forms`` to name what is wrong with it. Every step is linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from persd.domains.called import calls_in, docstrings_of, functions_of, only_calls, tree_of
from persd.domains.names import clean
from persd.domains.parse import Block, blocks_in
from persd.domains.replies_json import json_calls, json_tasks
from persd.records import Proposal


@dataclass(frozen=True, slots=True)
class Unread:
    """A reply, or the part of it that should have been a task, without one that can be read."""

    detail: str
    text: str
    cut: bool = False
    """The reply ends within the task."""


def read_tasks(text: str, *, cut: bool = False) -> list[Proposal | Unread]:
    """The tasks of a reply, in order; never empty: a text without any gives one Unread.

    ``cut``: the model was stopped by its limit, so that a last task which is not closed is
    ``Unread.cut``, whatever it seems to hold. Never raises.
    """
    text = clean(text)
    if not text.strip():
        return [Unread("the reply is empty", text, cut)]
    spoken = _spoken(text)
    if spoken is None:
        return [Unread("the reply ends within its thoughts", text, True)]
    text = _unwrapped(spoken)
    segments = _segments(text)
    headed = any(segment.headed for segment in segments)
    told = None if headed else json_tasks(text)
    if told is not None:
        rest = [Unread("the reply ends within the task", told.rest, True)] if told.rest else []
        return [*(p if isinstance(p, Proposal) else Unread(*p) for p in told.tasks), *rest]
    wanted = [s for s in segments if s.headed or _program_of(s)]
    if not wanted:
        return [Unread("no task in the reply", text, cut)]
    return [_task_of(s, cut=cut and s is segments[-1]) for s in wanted]


def read_calls(text: str, entry_point: str) -> list[str]:
    """The calls of a function that a reply lists, in order. Never raises."""
    text = clean(text)
    text = _spoken(text) or text
    told = json_calls(text)
    if told is not None:
        return [call for item in told for call in calls_in(item, {entry_point})]
    blocks = [b.code for b in blocks_in(text)]
    return [call for piece in blocks or [text] for call in calls_in(piece, {entry_point})]


# ---- a reply, less what is around it ---------------------------------------------------------


def _spoken(text: str) -> str | None:
    """What is said after the thoughts of a model whose server leaves them in; None: it comes to
    no more than thoughts. They end with ``</think>``; their ``<think>`` may be the question's."""
    first = text.lstrip().partition("\n")[0]
    if heading_of(first) is not None:
        return text
    end = _THOUGHT.search(text)
    if end is not None:
        return text[end.end() :]
    return None if first.startswith("<think>") else text


def _unwrapped(text: str) -> str:
    """A reply that is a block of Markdown, less the fences of that block.

    They are often no longer than those within it: the one that closes it is left over, then.
    """
    lines = text.split("\n")
    number = next((i for i, line in enumerate(lines) if heading_of(line) or "```" in line), 0)
    rest = lines[number + 1 :]
    head = next((line for line in rest if line.strip()), "")
    if not _MARKDOWN.fullmatch(lines[number].strip()) or heading_of(head) is None:
        return text
    last = blocks_in("\n".join(rest))[-1:]
    if last and not last[0].closed and not last[0].language:
        del rest[last[0].first]
    return "\n".join([*lines[:number], *rest])


# ---- a reply, divided into tasks -------------------------------------------------------------

Kind = Literal["task", "instruction", "code", "calls", "examples", "name"]


@dataclass(slots=True)
class _Section:
    """What stands under one heading."""

    kind: Kind
    title: str = ""
    """What the heading's line says beside its kind."""
    styled: bool = False
    """The heading is marked as one, so that its title is no sentence of the text."""
    lines: list[str] = field(default_factory=list)
    """All of it, blocks with their fences."""
    blocks: list[tuple[int, Block]] = field(default_factory=list)
    """Each with the index of its first line in ``lines``."""

    def text(self, end: int | None = None) -> str:
        """Its text, up to some line; without the fence where that is one block of text."""
        blocks = [(at, b) for at, b in self.blocks if end is None or at < end]
        lines = self.lines[:end]
        if len(blocks) == 1 and blocks[0][1].language in _TEXT:
            at, block = blocks[0]
            if not "".join(lines[:at] + lines[at + len(block) :]).strip():
                return block.code.strip()
        return _trimmed(lines)


@dataclass(slots=True)
class _Segment:
    """The part of a reply that tells one task."""

    sections: list[_Section]
    headed: bool
    """It stands under a heading of ours."""
    kinds: set[Kind] = field(default_factory=set)
    """Of its sections."""
    is_empty: bool = True
    has_blocks: bool = False

    @property
    def blocks(self) -> list[Block]:
        return [block for section in self.sections for _, block in section.blocks]

    @property
    def text(self) -> str:
        return "\n".join(line for section in self.sections for line in section.lines)

    def of(self, *kinds: Kind) -> list[_Section]:
        return [section for section in self.sections if section.kind in kinds]

    def open(self, section: _Section) -> None:
        """Begin a section, with a title that is a sentence of its text."""
        self.headed = True
        self.kinds.add(section.kind)
        self.sections.append(section)
        if section.title and not section.styled and section.kind in ("task", "instruction"):
            self.add(section.title)

    def add(self, line: str) -> None:
        self.sections[-1].lines.append(line)
        self.is_empty = self.is_empty and not line.strip()

    def add_block(self, lines: list[str], block: Block) -> None:
        self.sections[-1].blocks.append((len(self.sections[-1].lines), block))
        self.sections[-1].lines += lines
        self.is_empty, self.has_blocks = False, True


def _segments(text: str) -> list[_Segment]:
    lines, blocks = text.split("\n"), {b.first: b for b in blocks_in(text)}
    segments = [_Segment([_Section("task")], headed=False)]
    number = 0
    while number < len(lines):
        block = blocks.get(number)
        if block is not None:
            segments[-1].add_block(lines[number : block.last + 1], block)
            number = block.last
        else:
            _read_line(segments, lines[number])
        number += 1
    if not any(segment.kinds - {"calls", "examples"} for segment in segments):
        return _unheaded(_joined(segments[0].sections))
    return segments


def _joined(sections: list[_Section]) -> _Section:
    whole = _Section("task")
    for section in sections:
        whole.blocks += [(len(whole.lines) + at, block) for at, block in section.blocks]
        whole.lines += section.lines
    return whole


def _read_line(segments: list[_Segment], line: str) -> None:
    """A line outside of blocks: a heading, or text of the section it stands in."""
    segment, section = segments[-1], heading_of(line)
    early = section is not None and section.kind == "examples" and not segment.has_blocks
    if section is None or early or _is_within(segment.sections[-1:], section, line):
        segment.add(line)
        return
    again = segment.has_blocks and bool(segment.kinds & {"calls", "examples"})
    if section.kind == "task" and not segment.is_empty:
        segments.append(_Segment([], headed=True))
    elif section.kind in ("instruction", "code") and again:
        # above the code, its instruction may stand under a heading that is none of ours
        above = _after_blocks(segment.sections[-1]) if section.kind == "code" else []
        segments.append(_Segment([_Section("task", lines=above)], headed=True))
    segments[-1].open(section)


def _is_within(told: list[_Section], section: _Section, line: str) -> bool:
    """Whether a line such as ``Function name: `f``` is part of an instruction that stands under a
    heading with a line of its own, where the next heading would have one as well."""
    plain = bool(section.title) and line.lstrip()[:1] != "#" and not section.styled
    numbered = bool(_DIGIT.search(line.partition(section.title)[0])) if plain else False
    under = bool(told) and told[0].kind == "instruction" and not told[0].title
    return under and plain and not numbered and section.kind not in ("calls", "examples")


def _after_blocks(section: _Section) -> list[str]:
    if not section.blocks:
        return []
    at, block = section.blocks[-1]
    return section.lines[at + len(block) :]


def _unheaded(whole: _Section) -> list[_Segment]:
    """A reply without headings: a task ends with its calls, in a block or in the program's."""
    sections, begun = list[_Section](), 0
    blocks, program = list[tuple[int, Block]](), False
    for index, (at, block) in enumerate(whole.blocks):
        following = [b for _, b in whole.blocks[index + 1 : index + 2]]
        blocks.append((at - begun, block))
        if only_calls(block.code):
            ends = program
        elif block.is_python:
            program = True
            own = calls_in(block.code, functions_of(block.code))
            ends = bool(own) and not any(only_calls(b.code) for b in following)
        else:
            ends = False
        if ends or not following:
            end = at + len(block) if following else len(whole.lines)
            sections.append(_Section("task", lines=whole.lines[begun:end], blocks=blocks))
            begun, blocks, program = end, [], False
    return [_Segment([section], headed=False) for section in sections or [whole]]


# ---- one task --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Program:
    """The reference of a task, and where it stands."""

    code: str
    section: _Section
    at: int
    """Index of its first line in the section."""
    last: Block | None
    """The last block it consists of; None: it stands in no block."""


def _task_of(segment: _Segment, *, cut: bool) -> Proposal | Unread:
    """``cut``: the segment ends a reply that was stopped by its limit."""
    program = _program_of(segment)
    last = segment.blocks[-1] if segment.blocks else None
    is_open = last is not None and not last.closed
    if program is None:
        return Unread("the task has no program", segment.text, cut or is_open)
    entry_point = _entry_of(segment, program.code)
    names = {entry_point} if entry_point else set(functions_of(program.code))
    calls = _calls_of(segment, program, names)
    ends_in_it = last is program.last
    if cut:
        is_cut = is_open or ends_in_it or not calls
    else:
        is_cut = is_open and not (calls and (not ends_in_it or tree_of(program.code)))
    if is_cut:
        return Unread("the reply ends within the task", segment.text, True)
    return Proposal(_instruction_of(segment, program), program.code, tuple(calls), entry_point)


def _program_of(segment: _Segment) -> _Program | None:
    """The blocks under the heading of the code; else the last block that defines a function.

    Blocks before that one belong to the instruction, which may quote code.
    """
    told = [(s, at, b) for s in segment.of("code") for at, b in s.blocks if b.is_python]
    if len(told) > 1:
        told = [t for t in told if not only_calls(t[2].code)] or told[:1]
    if not told:
        others = [(s, at, b) for s in segment.of(*_PROSE) for at, b in s.blocks if b.is_python]
        programs = [t for t in others if t[2].code.strip() and not only_calls(t[2].code)]
        told = ([t for t in programs if functions_of(t[2].code)] or programs)[-1:]
    if told:
        code = "\n\n".join(block.code for _, _, block in told)
        section, at, _ = told[0]
        return _Program(code, section, at, told[-1][2]) if code.strip() else None
    for section in segment.of("code"):
        if functions_of(section.text()):
            return _Program(section.text() + "\n", section, 0, None)
    return None


def _instruction_of(segment: _Segment, program: _Program) -> str:
    for kind in ("instruction", "task"):
        for section in segment.of(kind):
            text = section.text(program.at if section is program.section else None)
            if text:
                return text
    titles = (s.title for s in segment.of("instruction", "task") if not _NAMED.fullmatch(s.title))
    return next(filter(None, titles), "")


def _entry_of(segment: _Segment, code: str) -> str:
    """The function that a heading names: in backquotes, or one that the program defines."""
    for section in segment.sections:
        named = _NAMED.fullmatch(section.title)
        name = named["name"] if named else ""
        if named and name.isidentifier() and (named["quote"] or name in functions_of(code)):
            return name
    return ""


def _calls_of(segment: _Segment, program: _Program, names: set[str]) -> list[str]:
    listed = segment.of("calls", "examples")
    blocks = [block for section in listed for _, block in section.blocks]
    if blocks:
        return [call for b in blocks for call in calls_in(b.code, names, told=True)]
    text = "\n".join(line for section in listed for line in section.lines)
    found = calls_in(text, names) or calls_in(program.code, names)
    found += [
        call
        for block in _blocks_after(segment, program)
        for call in calls_in(block.code, names, told=only_calls(block.code))
    ]
    found = found or calls_in("\n".join(_after_blocks(program.section)), names)
    return found or calls_in("\n\n".join(docstrings_of(program.code)), names)


def _blocks_after(segment: _Segment, program: _Program) -> list[Block]:
    first = program.last.first if program.last is not None else -1
    return [block for block in segment.blocks if block.first > first]


def _trimmed(lines: list[str]) -> str:
    """The lines less white space and rules at their ends."""
    kept = [i for i, line in enumerate(lines) if line.strip() and not is_rule(line)]
    return "\n".join(lines[kept[0] : kept[-1] + 1]).strip() if kept else ""


# ---- headings --------------------------------------------------------------------------------


def heading_of(line: str) -> _Section | None:
    """The section that a line opens, if it is one of our headings in whatever style.

    ``## Task 2: `f```, ``**Instruction:** Write ...``, ``3. Calls``, ``Code:``.
    """
    line = line.strip()
    found = _HEADING.match(line)
    if found is None:
        return None
    title = found["title"].strip()
    marked = bool(found["hashes"] or found["bold"])
    if not (":" in found["end"] or not title or (marked and (found["end"] or title[0] in "`("))):
        return None
    styled = bool(found["hashes"]) or (bool(found["bold"]) and title.endswith(("**", "__")))
    kind = next(kind for kind in _KINDS if found[kind])
    return _Section(kind, title=title.rstrip("*_ ") if styled else title, styled=styled)


def is_rule(line: str) -> bool:
    """Whether a line does no more than part what stands above it from what stands below."""
    line = line.strip()
    return len(line) > 2 and line[0] in "-*_=" and not line.strip(line[0])


_KINDS: tuple[Kind, ...] = ("instruction", "calls", "examples", "name", "code", "task")
_PROSE: tuple[Kind, ...] = ("task", "instruction", "name", "code")
_THOUGHT = re.compile(r"</think>[ \t]*$", re.MULTILINE)
_MARKDOWN = re.compile(r"`{3,}[ ]?(?:markdown|md)", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_TEXT = ("text", "txt", "markdown", "md")
_NAMED = re.compile(r"(?P<quote>`?)(?P<name>\w+)\s*(?:\(.*\))?`?")
_HEADING = re.compile(
    r"""
    (?P<hashes>\#{1,6}[ ]*)? (?:\d{1,3}[.)][ ]+)? (?P<bold>\*\*|__)? (?:\d{1,3}[.)][ ]+)?
    (?:
      (?P<instruction>(?:(?:task|problem)[ ])?(?:instructions?|description|statement))
    | (?P<calls>(?:(?:example|test|sample|function)[ ])?calls)
    | (?P<examples>(?:(?:example|test|sample)[ ])?(?:tests?|(?:test[ ])?cases|examples?|usage))
    | (?P<name>entry[ ]point|function[ ]name)
    | (?P<code>(?:(?:the|reference|correct|python)[ ]){0,2}
        (?:code|solution|implementation|program|function))
    | (?P<task>(?:(?:the|new|rewritten|evolved|changed|programming|coding|python)[ ]){0,3}
        (?:task|problem|exercise|question|challenge))
    )
    (?!\w) (?P<end>(?:[ ]?\#?[ ]?\d{1,3}(?!\w))? [ ]? (?:\*\*|__)? [ ]? (?:[:.–—-](?!\w))?
    (?:\*\*|__)?)
    (?P<title>.*)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
