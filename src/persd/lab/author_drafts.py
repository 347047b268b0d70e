"""Tasks of the lab family as an author drafts them: words, a program and calls, no answers."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from persd.lab import family
from persd.lab.family import Chain
from persd.lab.steps import STEPS
from persd.records import Proposal, Task, Test

KINDS = "LWSI"
"""The types of input a task may take (``lab.steps``)."""
STYLES: tuple[family.Style, ...] = ("chain", "loop", "nested")
#: The first calls of a reply are those that may be shown to a student.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Sketch:
    """A task before it is written down; an author may still spoil any part of it."""

    chain: Chain
    text: str
    code: str
    calls: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its one parameter."""
        return family.PARAMETER[self.chain[0].step.source]

    @property
    def proposal(self) -> Proposal:
        return Proposal(self.text, self.code, self.calls, family.ENTRY_POINT)


@dataclass(slots=True)
class Desk:
    """What an author draws tasks with."""

    rng: random.Random
    calls: int = 8
    """Calls wanted of a task."""
    steps: int = 3
    """2-4, the number of steps of a task."""
    kinds: str = KINDS
    """Types of input asked for."""
    shown: tuple[Task, ...] = ()
    """Seeds that were shown."""
    used: list[frozenset[str]] | None = None
    """The steps of tasks drawn before, to which others are not alike; None: they may be."""
    twin: Sketch | None = field(default=None)
    """A sound task that was proposed before."""

    def sketch(self, kinds: str = KINDS, ends: str = KINDS, steps: int | None = None) -> Sketch:
        """A sound task whose input and result are of these types, where they can be had among
        those asked for."""
        wanted = "".join(k for k in self.kinds if k in kinds) or kinds
        while True:
            chain = family.draw_from(self.rng, steps or self.steps, "pool")
            if chain[0].step.source not in wanted or chain[-1].step.target not in ends:
                continue
            if (found := self.of_chain(chain)) is not None:
                return found

    def of_chain(self, chain: Chain) -> Sketch | None:
        """A chain as a task; None where it is like one used before, or no calls tell it apart."""
        steps = steps_of(chain)
        if self.used is not None and any(alike(steps, other) >= 0.5 for other in self.used):
            return None
        text = family.instruction(self.rng, chain)
        task = family.make_task(chain, text)
        if task is None:
            return None
        if self.used is not None:
            self.used.append(steps)
        code = family.program(chain, self.rng.choice(STYLES))
        calls = telling_calls(task, self.calls)
        more = usual_calls(self.rng, chain[0].step.source, self.calls - len(calls), calls)
        return Sketch(chain, text, code, (*calls, *more))

    def first(self, draw: Callable[[], Chain | None], tries: int = 400) -> Sketch | None:
        """The first chain drawn that makes a task of the pool; None after many tries."""
        for _ in range(tries):
            chain = draw()
            if chain is None or family.split_of(family.signature(chain)) != "pool":
                continue
            if (found := self.of_chain(chain)) is not None:
                return found
        return None


def steps_of(chain: Chain) -> frozenset[str]:
    return frozenset(link.step.name for link in chain)


def alike(steps: frozenset[str], others: frozenset[str]) -> float:
    """Jaccard similarity, 0-1."""
    return len(steps & others) / len(steps | others)


def telling_calls(task: Task, count: int) -> tuple[str, ...]:
    """``count`` calls of a family's task, as far as it has them: some to be shown, then those
    whose answers differ most, a short or empty input at the end."""
    shown = task.seen_tests[: min(_SHOWN, count // 2)]
    usual, edge = task.tests[:-2], task.tests[-2]
    known = {t.expected for t in shown}
    fresh, again = list[Test](), list[Test]()
    for test in (*usual, *task.seen_tests[len(shown) :]):
        unchanged = test.call == f"{family.ENTRY_POINT}({test.expected})"
        (again if unchanged or test.expected in known else fresh).append(test)
        known.add(test.expected)
    hidden = [*fresh, *again][: max(0, count - len(shown) - 1)]
    return tuple(t.call for t in (*shown, *hidden, edge))[:count]


def call_of(value: object) -> str:
    return f"{family.ENTRY_POINT}({value!r})"


def usual_calls(rng: random.Random, kind: str, count: int, known: Sequence[str] = ()) -> list[str]:
    """``count`` different calls (up to 100) beside those known, with inputs of usual size."""
    found: list[str] = []
    while len(found) < count:
        drawn = map(call_of, family.draw_inputs(rng, kind)[: family.HIDDEN_TESTS])
        found += [c for c in drawn if c not in found and c not in known]
    return found[: max(0, count)]


def kind_of(task: Task) -> str:
    """The type of input of a task: by its parameter's name, else by the argument of a test."""
    known = {name: kind for kind, name in family.PARAMETER.items()}
    for name, kind in known.items():
        if f"({name})" in task.header:
            return kind
    for test in (*task.seen_tests, *task.tests):
        value = _argument(test.call)
        if isinstance(value, str):
            return "S"
        if isinstance(value, int):
            return "I"
        if isinstance(value, list) and value:
            return "W" if isinstance(value[0], str) else "L"
    return "L"


def _argument(call: str) -> object:
    """The one literal argument of a call; None where it is none."""
    try:
        tree = ast.parse(call.strip(), mode="eval").body
        return ast.literal_eval(tree.args[0]) if isinstance(tree, ast.Call) and tree.args else None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


# ---- rewriting a program ----------------------------------------------------------------------


def program_with(
    sketch: Sketch,
    *,
    top: str = "",
    first: Sequence[str] = (),
    last: Sequence[str] = ("return result",),
) -> str:
    """The sketch's program with lines ``first`` before its own and ``last`` in place of its
    ``return``, where ``result`` is what it gave back. ``{x}`` stands for the parameter."""
    head, *body = sketch.code.splitlines()
    given = body[-1].strip().removeprefix("return ")
    lines = [*first, *(line[4:] for line in body[:-1]), f"result = {given}", *last]
    own = [line.replace("{x}", sketch.name) for line in lines]
    return "\n".join([*([top, ""] if top else []), head, *(f"    {line}" for line in own), ""])


def said(sketch: Sketch, sentence: str) -> Sketch:
    """The sketch with one more sentence in its instruction."""
    return replace(sketch, text=f"{sketch.text} {sentence}")


# ---- around another task ----------------------------------------------------------------------


def deeper(rng: random.Random, chain: Chain) -> Chain:
    """The chain with one step more; where it has four, another last one."""
    base = chain[:-1] if len(chain) == 4 else chain
    return (*base, _step_from(rng, base[-1].step.target))


def constrained(rng: random.Random, chain: Chain) -> Chain:
    """The chain on only some of its input."""
    source = chain[0].step.source
    narrow = [s for s in STEPS.values() if s.source == s.target == source and s.params]
    step = rng.choice(narrow)
    return (family.Link(step, family.draw_params(rng, step)), *chain)[:4]


def other_input(rng: random.Random, chain: Chain) -> Chain | None:
    """A chain as long for another type of input; None: this draw is of the same."""
    drawn = family.draw_chain(rng, len(chain))
    return drawn if drawn[0].step.source != chain[0].step.source else None


def one_changed(rng: random.Random, chain: Chain) -> Chain:
    """The chain with another step between the same types in the place of one."""
    place = rng.randrange(len(chain))
    old = chain[place].step
    same = [s for s in STEPS.values() if (s.source, s.target) == (old.source, old.target)]
    step = rng.choice(same)
    return (*chain[:place], family.Link(step, family.draw_params(rng, step)), *chain[place + 1 :])


def _step_from(rng: random.Random, kind: str) -> family.Link:
    step = rng.choice([s for s in STEPS.values() if s.source == kind])
    return family.Link(step, family.draw_params(rng, step))
