"""The embedded teacher as an author of tasks: what it writes when it is asked for some.

A question's structure (``records.Brief``) is all it reads. It writes tasks of the lab family, as
many as wanted, of two to four steps by the difficulty asked for, about the types of input that
the topic names; where a task is to be rewritten, another one around it. As real authors do, it
gets some wrong: a share of what it writes is broken in one of the ways that a screening knows
(``author_defects``). What it writes follows from the question's seed and number alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

from persd.domains.authoring import render
from persd.domains.prompts import fenced
from persd.errors import UserError
from persd.lab import family
from persd.lab.author_defects import DEFECTS, is_stubborn, short_calls
from persd.lab.author_drafts import (
    KINDS,
    Desk,
    Sketch,
    constrained,
    deeper,
    kind_of,
    one_changed,
    other_input,
    usual_calls,
)
from persd.records import Brief, CandidateState, Proposal, Request, Task, derive_seed

BROKEN = 0.3
"""The share of its tasks that are broken on purpose."""
#: How often a defect comes; 1 where nothing is said. What is slow is slow to find out.
_WEIGHTS: Mapping[CandidateState, float] = {"too_slow": 0.2}
_REPLIES: tuple[CandidateState, ...] = ("no_task", "cut")
"""What is wrong with a reply rather than with a task."""

#: Words of a difficulty, and how many steps they stand for; otherwise any number.
_STEPS = {
    2: ("easy", "simple", "basic", "beginner"),
    3: ("medium", "moderate", "intermediate", "usual"),
    4: ("hard", "difficult", "advanced", "expert", "challenging", "tricky", "demanding"),
}
#: Words of a topic, and the types of input they name; otherwise any.
_TOPICS = {
    "L": ("list", "array", "sequence", "sort", "filter", "statistic"),
    "W": ("word", "name", "sentence"),
    "S": ("string", "text", "character", "letter", "pars"),
    "I": ("number", "integer", "digit", "arithmetic", "math"),
}

_EXCUSES = (
    "I am sorry, but I cannot help with that.",
    "Sure! Which programming language would you like the tasks to be in?",
    "Here are some ideas: sort a list, count the vowels, reverse the words of a sentence.",
    "",
    "As discussed above, the tasks remain the same.",
    '{"error": "overloaded"}',
)


def write(request: Request, broken: float = BROKEN) -> tuple[str, str]:
    """The reply to a question for tasks or for more calls, and why it ends: ``stop``, ``length``.

    Raises UserError for a request without a brief.
    """
    brief = request.brief
    if brief is None:
        raise UserError("a question for tasks came without its brief")
    if request.purpose == "calls":
        return more_calls(brief, request.seed), "stop"
    text, finish = new_tasks(brief, request.seed, broken)
    most = 4 * request.max_tokens  # tokens of four bytes, as it is paid for
    return (text, finish) if len(text) <= most else (text[:most], "length")


def new_tasks(brief: Brief, seed: int, broken: float = BROKEN) -> tuple[str, str]:
    """The tasks a brief asks for as one reply, and why it ends."""
    written: list[str] = []
    for place in range(brief.count):
        rng = random.Random(derive_seed("lab author", seed, brief.number, place))
        state = _fate(rng, broken)
        if state == "no_task" and not place and rng.random() < 0.5:
            return excuse(rng), "stop"
        if state == "no_task":
            written.append(without_program(_proposal(rng, brief, "accepted")))
        elif state == "cut":
            text = render(_proposal(rng, brief, "accepted"))
            return "\n\n".join([*written, cut_short(rng, text)]), "length"
        else:
            written.append(render(_proposal(rng, brief, state)))
    return "\n\n".join(written), "stop"


def cut_short(rng: random.Random, text: str) -> str:
    """A task up to some place within it."""
    return text[: rng.randint(len(text) // 5, len(text) * 4 // 5)]


def excuse(rng: random.Random) -> str:
    """A reply without a task."""
    return rng.choice(_EXCUSES)


def without_program(proposal: Proposal) -> str:
    """A task of which only the words were written."""
    head, code, _ = render(proposal).partition("### Code")
    return f"{head.rstrip()}\n" if code else ""


def _fate(rng: random.Random, broken: float) -> CandidateState:
    """What is to become of a task: a state that stands for a defect, or ``accepted``."""
    if rng.random() >= broken:
        return "accepted"
    states = [*_REPLIES, *DEFECTS]
    return rng.choices(states, [_WEIGHTS.get(s, 1.0) for s in states])[0]


def _proposal(rng: random.Random, brief: Brief, state: CandidateState) -> Proposal:
    desk = desk_for(brief, rng)
    if state in DEFECTS:
        return rng.choice(list(DEFECTS[state].values()))(desk)
    return (_rewritten(desk, brief) if brief.way and brief.parent else desk.sketch()).proposal


def desk_for(brief: Brief, rng: random.Random) -> Desk:
    """What a brief's tasks are drawn with: so many steps and calls, such types of input."""
    steps = next((n for n, words in _STEPS.items() if _names(brief.difficulty, words)), 0)
    kinds = "".join(k for k, words in _TOPICS.items() if _names(brief.topic, words))
    return Desk(
        rng,
        calls=brief.calls,
        steps=steps or rng.choice((2, 3, 4)),
        kinds=kinds or KINDS,
        shown=brief.shown,
    )


def _names(text: str, words: tuple[str, ...]) -> bool:
    return re.search(rf"\b({'|'.join(words)})", text.lower()) is not None


# ---- around a task ----------------------------------------------------------------------------

_Way = Callable[[random.Random, family.Chain], family.Chain | None]
_WAYS: Mapping[str, _Way] = {
    "deeper": deeper,
    "constraint": constrained,
    "input": other_input,
    "misdirection": one_changed,
}


def _rewritten(desk: Desk, brief: Brief) -> Sketch:
    """A task of the family around the parent; any, where that is not of the family."""
    chain = family.chain_of(brief.parent) if brief.parent else None
    way = _WAYS.get(brief.way)
    found: Sketch | None = None
    if chain is not None and way is not None:
        around = chain
        found = desk.first(lambda: _unlike(around, way(desk.rng, around)))
    found = found or desk.sketch()
    return _misled(found, brief) if brief.way == "misdirection" else found


def _unlike(chain: family.Chain, drawn: family.Chain | None) -> family.Chain | None:
    same = drawn is None or family.signature(drawn) == family.signature(chain)
    return None if same else drawn


def _misled(sketch: Sketch, brief: Brief) -> Sketch:
    """The sketch with a wrong program in its instruction: the one at hand, or one step short."""
    wrong = brief.wrong or family.program(sketch.chain[:-1], "loop")
    text = f"{sketch.text} This program was written for it, and it is wrong:\n\n{fenced(wrong)}"
    return Sketch(sketch.chain, text, sketch.code, sketch.calls)


# ---- more calls -------------------------------------------------------------------------------


def more_calls(brief: Brief, seed: int) -> str:
    """The reply to a question for more calls of the parent, one a line. Raises UserError."""
    if brief.parent is None:
        raise UserError("a question for more calls came without its task")
    rng = random.Random(derive_seed("lab calls", seed, brief.number))
    return fenced("\n".join(calls_for(brief.parent, rng, brief.calls)))


def calls_for(task: Task, rng: random.Random, count: int) -> list[str]:
    """Calls of usual size; for some of the tasks whose calls were too short, short ones again."""
    kind = kind_of(task)
    if is_stubborn(task.reference or ""):
        calls = short_calls(rng, kind, count)
    else:
        calls = usual_calls(rng, kind, count)
    return [c.replace(f"{family.ENTRY_POINT}(", f"{task.entry_point}(", 1) for c in calls]
