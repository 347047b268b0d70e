"""Replies whose end is known: what a screening is measured by.

Sound tasks of the family, of which no two share half of their steps (nor any with a seed), so
that none is another's near-duplicate; and tasks broken in every way an author knows
(``author_defects``), each in a reply of its own. A benchmark's tasks, where they are given, are
told again in other words and with other names. The label is not in the reply.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from persd.domains.authoring import proposal_of, render
from persd.lab import family
from persd.lab.author import cut_short, excuse, without_program
from persd.lab.author_defects import DEFECTS, guarded, is_stubborn
from persd.lab.author_drafts import Desk, Sketch, steps_of
from persd.likeness import prose, read_program
from persd.records import CandidateState, Proposal, Task, derive_seed
from persd.tasks.rows import is_literal


@dataclass(frozen=True, slots=True)
class Labelled:
    """A reply with one proposed task, or none, and how that must end."""

    reply: str
    state: CandidateState
    kind: str
    """The way it is broken; of a sound one its number of steps."""
    finish: str = "stop"
    after: CandidateState | None = None
    """How it must end when the author was asked for more calls; None: as ``state``."""

    @property
    def end(self) -> CandidateState:
        return self.after or self.state


def labelled(
    seed: int,
    sound: int,
    per_defect: int,
    benchmark: Sequence[Task] = (),
    *,
    seeds: Sequence[Task] = (),
    slow: int | None = None,
    calls: int = 8,
) -> list[Labelled]:
    """``sound`` sound tasks, then ``per_defect`` replies of every defect, its kinds in turn;
    ``slow`` of those that run into the limits, None: as many as of the others. ``seeds``: tasks
    that are known, of which some are told again."""
    rng = random.Random(derive_seed("lab labelled", seed))
    known = [steps_of(chain) for task in seeds if (chain := family.chain_of(task))]
    desk = Desk(rng, calls=calls, used=known)
    sketches = [_sound(desk, 2 + number % 3) for number in range(sound)]
    twins = [s for s in sketches if len(s.chain) > 2]
    found = [Labelled(render(s.proposal), "accepted", f"{len(s.chain)} steps") for s in sketches]
    free = Desk(rng, calls=calls, shown=tuple(seeds))
    for state, kinds in DEFECTS.items():
        count = slow if state == "too_slow" and slow is not None else per_defect
        for number in range(count):
            free.steps = 2 + number % 3
            free.twin = twins[number % len(twins)] if state == "near_duplicate" and twins else None
            kind = list(kinds)[number % len(kinds)]
            found.append(_broken(free, state, kind))
    for _ in range(per_defect // 2):
        found.append(_guarded(free, is_stubborn, "weak_tests"))
        found.append(_guarded(free, lambda code: not is_stubborn(code), "accepted"))
    found += [_cut(free) for _ in range(per_defect)]
    found += [_unwritten(free, number) for number in range(per_defect)]
    found += told_again(rng, benchmark, per_defect, calls)
    return found


def _sound(desk: Desk, steps: int) -> Sketch:
    """A sound task unlike those before, of so many steps while such are easily found."""
    for length in (steps, 3, 4):
        drawn = (desk.rng, length, "pool")
        found = desk.first(lambda drawn=drawn: family.draw_from(*drawn), 40)  # type: ignore[misc]
        if found is not None:
            return found
    desk.steps = 4
    return desk.sketch()


def _broken(desk: Desk, state: CandidateState, kind: str) -> Labelled:
    if kind == "a branch not taken":
        return _guarded(desk, is_stubborn, "weak_tests")
    after: CandidateState | None = "accepted" if kind == "short inputs" else None
    return Labelled(render(DEFECTS[state][kind](desk)), state, kind, after=after)


def _guarded(desk: Desk, wanted: Callable[[str], bool], after: CandidateState) -> Labelled:
    """A task whose calls never reach most of it, whose author thinks of others or does not."""
    while not wanted((sketch := guarded(desk)).code):
        pass
    return Labelled(render(sketch.proposal), "weak_tests", "a branch not taken", after=after)


def _cut(desk: Desk) -> Labelled:
    return Labelled(
        cut_short(desk.rng, render(desk.sketch().proposal)), "cut", "within", finish="length"
    )


def _unwritten(desk: Desk, number: int) -> Labelled:
    if number % 2:
        return Labelled(without_program(desk.sketch().proposal), "no_task", "without a program")
    return Labelled(excuse(desk.rng), "no_task", "an excuse")


# ---- a benchmark's tasks again ----------------------------------------------------------------

#: Words, and others for them.
_OTHER_WORDS = {
    "find": "determine",
    "check": "verify",
    "given": "provided",
    "returns": "gives back",
    "return": "give back",
    "list": "sequence",
    "string": "text",
    "elements": "items",
    "largest": "greatest",
    "remove": "delete",
    "whether": "if",
}
_LEADS = ("Create a program that can", "Build a small routine to", "Please write code to")
_FRESH = ("alpha", "beta", "gamma", "delta", "kappa", "sigma", "omega", "theta")


def told_again(
    rng: random.Random, benchmark: Sequence[Task], count: int, calls: int = 8
) -> Iterator[Labelled]:
    """Tasks of a benchmark told again. Of those with words and a program enough to be known by:
    what is shorter is no twin by any measure of ``overlap``."""
    known = [t for t in benchmark if _has_enough(t) and any(_own_calls(t))]
    ways: Mapping[str, Callable[[random.Random, Task], Proposal]] = {
        "its words": _with_helper,
        "its program": _in_other_words,
        "as it is": lambda _, task: proposal_of(task),
    }
    for number, task in enumerate(rng.sample(known, min(count, len(known)))):
        kind = list(ways)[number % len(ways)]
        proposal = ways[kind](rng, task)
        own = [_with_call_of(c, proposal.entry_point) for c in _calls_of(rng, task, calls)]
        proposal = replace(proposal, calls=tuple(own))
        yield Labelled(render(proposal), "contaminated", kind)


def _has_enough(task: Task) -> bool:
    program = read_program(task.reference or "")
    words = prose(task).split()
    return program is not None and program.nodes >= 40 and 10 <= len(words) <= 200


def _with_helper(rng: random.Random, task: Task) -> Proposal:
    """Its words after another beginning; its program behind a function that calls it."""
    text = re.sub(r"^\s*write a (python )?function to", rng.choice(_LEADS), prose(task), flags=re.I)
    code = f"{task.reference}\n\ndef solve_it(*args):\n    found = {task.entry_point}(*args)\n"
    code += "    return found\n"
    return Proposal(text.strip(), code, (), task.entry_point)


def _in_other_words(rng: random.Random, task: Task) -> Proposal:
    """Its program with other names; its words exchanged where there are others."""
    words = [_OTHER_WORDS.get(w.lower(), w) for w in prose(task).split()]
    code = renamed(task.reference or "", task.entry_point, "compute_it")
    return Proposal(" ".join(words), code, (), "compute_it")


def renamed(code: str, entry_point: str, name: str) -> str:
    """A program whose entry point and own variables have other names."""
    tree = ast.parse(code)
    own = {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    own |= {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    fresh = {old: f"{_FRESH[i % len(_FRESH)]}_{i}" for i, old in enumerate(sorted(own))}
    fresh[entry_point] = name
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = fresh.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg = fresh.get(node.arg, node.arg)
        elif isinstance(node, ast.FunctionDef):
            node.name = fresh.get(node.name, node.name)
    return f"{ast.unparse(tree)}\n"


def _with_call_of(call: str, name: str) -> str:
    return f"{name}({call.partition('(')[2]}"


def _calls_of(rng: random.Random, task: Task, count: int) -> list[str]:
    """Calls of a benchmark's task: those of its tests, then others with arguments like theirs, as
    far as there are any."""
    found = list(dict.fromkeys(_own_calls(task)))[:count]
    for _ in range(20 * count if found else 0):
        if len(found) == count:
            break
        call = _like(rng, rng.choice(found))
        found += [call] if call not in found else []
    return found


def _own_calls(task: Task) -> Iterator[str]:
    """The calls in its tests whose arguments are literals."""
    for test in (*task.seen_tests, *task.tests):
        yield from _literal_calls(task, test.call)
    yield from _literal_calls(task, task.test_code or "")


def _literal_calls(task: Task, source: str) -> Iterator[str]:
    for call in (n for n in ast.walk(ast.parse(source.strip())) if isinstance(n, ast.Call)):
        is_one = isinstance(call.func, ast.Name) and call.func.id in ("candidate", task.entry_point)
        if is_one and not call.keywords and all(is_literal(ast.unparse(a)) for a in call.args):
            yield _with_call_of(ast.unparse(call), task.entry_point)


def _like(rng: random.Random, call: str) -> str:
    """The call with other values in its literals."""
    tree = ast.parse(call, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = _other(rng, node.value)
    return ast.unparse(tree)


def _other(rng: random.Random, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return value + rng.randint(1, 9)
    if isinstance(value, str):
        return value + rng.choice("abcxyz")
    return value


def proposed(rng: random.Random, task: Task, calls: int) -> Proposal:
    """Somebody else's task as an author would propose it: its words, its reference, calls."""
    return replace(proposal_of(task), calls=tuple(_calls_of(rng, task, calls)))
