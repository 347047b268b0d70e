"""What a program does in different conditions: is it a function of its arguments, and of nothing
else?

It is run twice. First as the judge runs it; then with other hashes, other random numbers, all
clocks more than a year ahead, and its calls in another order. Where the answers differ it is run
again with one condition changed at a time, to say which one matters. Beside it runs
``persd.pool.observer``, which tells what it uses and whether it changes its arguments.
"""

from __future__ import annotations

import ast
import math
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from persd.pool.drafts import Rejection
from persd.pool.lanes import Run, Steps
from persd.records import CandidateState
from persd.sandbox import Limits, Outcome, Program, Sandbox, codec
from persd.verdicts import clean, shorten

#: Places of the sandboxes: as the judge's, and with hashes that start elsewhere.
BOX, ELSEWHERE = 0, 1
#: Hashes of further sandboxes, for programs that use sets: of two strings that tie, either may
#: come first, so one other order says little.
_MORE_HASHES = (2, 3)
#: Random numbers that programs are run with which name a source of them.
_MORE_SEEDS = (2, 3, 4)
_OTHER_SEED = 1
#: Seconds by which the clocks are ahead in the second run: 403 days and some.
_AHEAD = 403 * 86400 + 5 * 3600 + 47 * 60 + 13.25
LIMITS = Limits(cpu_seconds=1.0, load_seconds=2.0, value_bytes=20_000)
_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Subject:
    """A program, and calls of its entry point with literal arguments."""

    source: str
    entry_point: str
    calls: tuple[str, ...]
    setup: str = ""
    limits: Limits = LIMITS


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call did."""

    call: str
    tree: Any = None
    """The encoded value (``sandbox.codec``); None where there is none, or it is None."""
    error: str = ""
    """``Type: message`` of what it raised; empty: it returned."""
    printed: str = ""
    cut: bool = False
    """``printed`` is only the end of it."""
    changed: bool = False
    """It changed its arguments."""

    @property
    def is_silent(self) -> bool:
        return not self.error and self.tree is None and not self.printed.strip()

    @property
    def shown(self) -> str:
        """For reading."""
        if self.error:
            return f"raises {shorten(clean(self.error), _SHOWN)}"
        if self.tree is None and self.printed.strip():
            return f"prints {shorten(clean(self.printed.strip()), _SHOWN)!r}"
        return shorten(clean(codec.show(codec.decode(self.tree))), _SHOWN)

    def differs(self, other: Answer) -> bool:
        """Whether a test that holds one of them would not hold the other."""
        if self.error or other.error:
            return self.error.partition(":")[0] != other.error.partition(":")[0]
        if self.tree is None and other.tree is None:
            return self.printed != other.printed
        one, two = _text(self.tree), _text(other.tree)
        return one != two and not _rounded_alike(one, two)


def _text(tree: Any) -> str:
    return codec.canonical(codec.compact(tree))


#: What sums of the same floats in another order may differ by: far less than a test allows.
_ROUNDING = 1e-12


def _rounded_alike(one: str, two: str) -> bool:
    """Whether two encoded values are plain data and differ in the rounding of floats at most."""
    if any(mark in text for mark in ('{"other":', '{"sub":') for text in (one, two)):
        return False
    try:
        return _alike(codec.loads(one), codec.loads(two))
    except (codec.CodecError, RecursionError):
        return False


def _alike(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return math.isclose(a, b, rel_tol=_ROUNDING) or (a != a and b != b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    return bool(a == b)


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of a subject."""

    answers: tuple[Answer, ...] = ()
    """As the judge would run it, one a call; fewer where the program came to its end."""
    rejection: Rejection | None = None
    """Why it is no function of its arguments: ``reference_fails``, ``too_slow``, ``syntax``,
    ``file_dependent``, ``time_dependent``, ``non_deterministic``, ``mutates_input``, ``not_run``;
    None: it is one, as far as was seen."""


def more_hashes(elsewhere: Sandbox) -> list[Sandbox]:
    """Further sandboxes, the same for each use of one. They start when they are needed, and end
    with it."""
    found = _MORE.get(elsewhere)
    if found is None:
        unsafe = elsewhere.unsafe
        found = [Sandbox(workers=1, unsafe=unsafe, seed=seed) for seed in _MORE_HASHES]
        _MORE[elsewhere] = found
        for box in found:
            weakref.finalize(elsewhere, box.close)
    return found


_MORE: weakref.WeakKeyDictionary[Sandbox, list[Sandbox]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class _Way:
    """The conditions of a run."""

    place: int = BOX
    seed: int = 0
    ahead: float = 0.0
    backwards: bool = False


_FIRST = _Way()
_SECOND = _Way(ELSEWHERE, _OTHER_SEED, _AHEAD, backwards=True)
#: A condition at a time, and what it means where the answers change with it.
_ALONE: tuple[tuple[_Way, CandidateState, str], ...] = (
    (_FIRST, "non_deterministic", "nothing changed: addresses, or chance"),
    (_Way(seed=_OTHER_SEED), "non_deterministic", "other random numbers"),
    (_Way(backwards=True), "non_deterministic", "another order of the calls: it keeps state"),
    (_Way(ahead=_AHEAD), "time_dependent", "another time"),
    (_Way(place=ELSEWHERE), "non_deterministic", "another order of hashes, or other addresses"),
)


def watching(subject: Subject) -> Steps[Watched]:
    """The steps of looking at a subject in ``lanes``: box, elsewhere, and ``more_hashes``."""
    first = yield from _run(subject, _FIRST)
    if found := first.failure or _used(first.uses, subject.source):
        return Watched(first.answers, found)
    if not first.answers:
        return Watched(first.answers, Rejection("reference_fails", "nothing to call it with"))
    if changed := _changed(first.answers):
        return Watched(first.answers, changed)
    second = yield from _run(subject, _SECOND)
    found = second.failure or _used(second.uses, subject.source)
    if found is None and (pair := _difference(first, second)):
        found = yield from _cause(subject, first, pair)
    if found is None:
        found = yield from _again(subject, first)
    return Watched(first.answers, found)


# ---- one run ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ran:
    """What a run gave."""

    answers: tuple[Answer, ...] = ()
    uses: tuple[str, ...] = ()
    failure: Rejection | None = None


def _run(subject: Subject, way: _Way) -> Steps[_Ran]:
    calls = subject.calls[::-1] if way.backwards else subject.calls
    (outcome,) = yield Run((_program(subject, calls, way),), way.place)
    ran = _read(outcome, calls)
    last = outcome.frames[-1] if outcome.frames else {}
    if ran.failure is not None and last.get("i") == -1 and last.get("k") == "load":
        (outcome,) = yield Run((_loading(subject, way),), way.place)
        uses = _uses(outcome.frames[-1]) if outcome.frames else ()
        ran = replace(ran, failure=_used(uses, "", clocks=False) or ran.failure)
    return replace(ran, answers=ran.answers[::-1]) if way.backwards else ran


def _program(subject: Subject, calls: Sequence[str], way: _Way) -> Program:
    prefix = f"{subject.entry_point}("
    plain = [call if call.startswith(prefix) else _plainly(call) for call in calls]
    watched = [f"{_NAME}({subject.entry_point}, {call.removeprefix(prefix)}" for call in plain]
    return Program(
        source=subject.source,
        entry_point=subject.entry_point,
        calls=(*watched, f"{_NAME}()"),
        setup=_setup(way.ahead) + subject.setup,
        seed=way.seed,
        limits=subject.limits,
    )


def _plainly(call: str) -> str:
    """A call such as ``f (1)`` or ``(f(1))`` as ``f(1)``."""
    return ast.unparse(ast.parse(call.strip(), mode="eval"))


def _loading(subject: Subject, way: _Way) -> Program:
    """What the top level of a program that does not load uses, on its way."""
    source = f"try:\n    exec(compile({subject.source!r}, '<program>', 'exec'), globals())\n"
    source += "except BaseException:\n    pass\n"
    empty = replace(subject, source=source, entry_point="")
    return _program(empty, (), way)


#: What the observer is called by beside the program.
_NAME = "__observed__"
_START = """

_space = dict(globals())
for _name, _it in list(_space.items()):
    if hasattr(_it, "__code__"):
        _space[_name] = type(_it)(_it.__code__, _space, _name, _it.__defaults__)
{name} = _space["watch"]({ahead!r})
for _name in [*_space, "_space", "_it"]:
    if not _name.startswith("__"):
        del globals()[_name]
del _name
__doc__ = None
"""


@cache
def _setup(ahead: float) -> str:
    """The observer as a setup that leaves one name behind."""
    source = Path(__file__).with_name("observer.py").read_text(encoding="utf-8")
    return source + _START.format(name=_NAME, ahead=ahead)


# ---- reading it ------------------------------------------------------------------------------


def _read(outcome: Outcome, calls: Sequence[str]) -> _Ran:
    """The answers in the order of the calls, as far as they came, and why no more did."""
    if not outcome.ran:
        return _Ran(failure=Rejection("not_run", outcome.detail))
    frames = {frame["i"]: frame for frame in outcome.frames}
    if (unready := _unready(frames, outcome)) is not None:
        return _Ran(failure=unready)
    answers, uses = list[Answer](), tuple[str, ...]()
    for index, call in enumerate(calls):
        if (frame := frames.get(index)) is None:
            return _Ran(tuple(answers), uses, _ended(outcome, call))
        if (answer := _answer(call, frame)) is None:
            return _Ran(tuple(answers), uses, Rejection("reference_fails", _MEDDLES))
        answers.append(answer)
        uses = _uses(frame) or uses
    if (last := frames.get(len(calls))) is None:
        return _Ran(tuple(answers), uses, _ended(outcome, ""))
    if "tuple" not in (last.get("v") or ()):
        return _Ran(tuple(answers), uses, Rejection("reference_fails", _MEDDLES))
    return _Ran(tuple(answers), _uses(last) or uses)


_MEDDLES = "it meddles with what runs it"


def _unready(frames: Mapping[int, Any], outcome: Outcome) -> Rejection | None:
    """Why it could not be called at all."""
    if -2 not in frames:
        return _ended(outcome, "its setup")
    if "e" in frames[-2]:
        return Rejection("not_run", f"the setup fails: {_raised(frames[-2])}")
    loaded = frames.get(-1)
    if loaded is None:
        return _ended(outcome, "its top level")
    if "e" not in loaded:
        return None
    if loaded.get("k") == "syntax":
        return Rejection("syntax", _raised(loaded))
    return Rejection("reference_fails", f"it does not load: {_raised(loaded)}")


def _ended(outcome: Outcome, where: str) -> Rejection:
    """Why there is no frame for the next call."""
    told = shorten(where, _SHOWN) or "its last call"
    if outcome.broken or outcome.killed == "flood":
        return Rejection("reference_fails", _MEDDLES)
    if outcome.killed or outcome.signal == 24:  # SIGXCPU: the limit behind ours
        return Rejection("too_slow", f"{told} is stopped ({outcome.killed or 'cpu'})")
    if any(_raised(f).startswith("MemoryError") for f in outcome.frames if "e" in f):
        return Rejection("reference_fails", f"out of memory before {told}")
    how = f"signal {outcome.signal}" if outcome.signal else f"exit code {outcome.exit}"
    return Rejection("reference_fails", f"its process ends at {told} ({how})")


def _answer(call: str, frame: Mapping[str, Any]) -> Answer | None:
    """None: it is no answer of the observer's."""
    printed = frame.get("o", "")
    more: dict[str, Any] = {
        "printed": printed if isinstance(printed, str) else "",
        "cut": frame.get("c") is True,
    }
    if "e" in frame:
        return Answer(call, error=_raised(frame), **more)
    match frame.get("v"):
        case {"tuple": [tree, bool(changed), {"tuple": list()}]}:
            try:
                codec.decode(tree)
            except codec.CodecError:
                return None
            return Answer(call, tree, changed=changed, **more)
        case {"other": str(what)}:  # too large as a whole
            return Answer(call, {"other": what.replace("tuple of", "a value of")}, **more)
    return None


def _uses(frame: Mapping[str, Any]) -> tuple[str, ...]:
    """What the observer says is used so far, by a call's frame or by its own."""
    match frame.get("v"):
        case {"tuple": [_, bool(), {"tuple": list(items)}]} | {"tuple": list(items)}:
            return tuple(clean(item, _SHOWN) for item in items if isinstance(item, str))
    return ()


def _raised(frame: Mapping[str, Any]) -> str:
    error = frame.get("e")
    if not isinstance(error, list):
        return "it ends the process"
    return clean(": ".join(part for part in error[:2] if isinstance(part, str) and part), 300)


# ---- what it means ---------------------------------------------------------------------------

#: Clocks of packages that are not seen in use.
_CLOCKS = re.compile(r"""datetime64\(\s*["'](?:now|today)|Timestamp\.(?:now|today|utcnow)\(""")


def _used(uses: Sequence[str], source: str, *, clocks: bool = True) -> Rejection | None:
    """Whether it uses what is no argument of its."""
    other = [use for use in uses if not use.startswith("clock")]
    if other:
        return Rejection("file_dependent", f"it uses {', '.join(other[:3])}")
    seen = [use.removeprefix("clock: ") for use in uses]
    if (named := _CLOCKS.search(source)) and not seen:
        seen = [named[0]]
    if seen and clocks:
        return Rejection("time_dependent", f"it reads the clock: {', '.join(seen[:3])}")
    return None


def _changed(answers: Sequence[Answer]) -> Rejection | None:
    for answer in answers:
        if answer.changed:
            call = shorten(answer.call, _SHOWN)
            return Rejection("mutates_input", f"{call} changes its arguments")
    return None


def _difference(one: _Ran, other: _Ran) -> tuple[Answer, Answer] | None:
    for before, after in zip(one.answers, other.answers, strict=False):
        if before.differs(after):
            return before, after
    return None


def _told(pair: tuple[Answer, Answer], why: str) -> str:
    before, after = pair
    call = shorten(before.call, _SHOWN)
    return f"{call} gives {before.shown}, then {after.shown}, with {why}"


def _cause(subject: Subject, first: _Ran, pair: tuple[Answer, Answer]) -> Steps[Rejection]:
    """Which condition the answers change with."""
    for way, state, why in _ALONE:
        ran = yield from _run(subject, way)
        if ran.failure is not None:
            continue
        if found := _difference(first, ran):
            if any(_ADDRESS.search(repr(answer)) for answer in found):
                # a fork has its parent's addresses until anything is otherwise
                return Rejection("non_deterministic", _told(found, "addresses"))
            return Rejection(state, _told(found, why))
    return Rejection("non_deterministic", _told(pair, "several conditions changed"))


_ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")


def _again(subject: Subject, first: _Ran) -> Steps[Rejection | None]:
    """Runs for what one other condition does not show for sure."""
    ways: list[tuple[_Way, str]] = []
    if _RANDOM.search(subject.source):
        ways += [(_Way(seed=seed), "other random numbers") for seed in _MORE_SEEDS]
    if _uses_hashes(subject.source):
        more = range(ELSEWHERE + 1, ELSEWHERE + 1 + len(_MORE_HASHES))
        ways += [(_Way(place=place), "another order of hashes") for place in more]
    for way, why in ways:
        ran = yield from _run(subject, way)
        if ran.failure is None and (pair := _difference(first, ran)):
            return Rejection("non_deterministic", _told(pair, why))
    return None


_RANDOM = re.compile(r"random|secrets|uuid")
_HASHES = re.compile(r"\b(?:set|frozenset|hash)\b|\.(?:keys|items)\(\)\s*[&|^-]")


def _uses_hashes(source: str) -> bool:
    if _HASHES.search(source):
        return True
    if "{" not in source:
        return False
    try:
        nodes = ast.walk(ast.parse(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, (ast.Set, ast.SetComp)) for node in nodes)
