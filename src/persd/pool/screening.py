"""From what a reply proposes to decided candidates: what is a task, sound, strong and new.

    reply ─> proposals ─> forms ─> benchmarks ─> oracle ─> strength ─> near-duplicates ─> accepted
                          ast      overlap       sandbox   sandbox     pool, seeds

All but the last step look at one candidate alone, stream and may run in any order; whether a
candidate is new depends on what was accepted before it, so those are decided one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from persd.config import GenerateTable
from persd.domains.authoring import Unread, read_calls, read_tasks
from persd.overlap import Overlap
from persd.pool.drafts import Draft, Rejection
from persd.pool.forms import drafted
from persd.pool.oracle import answered
from persd.pool.strength import Weak, tried
from persd.records import Brief, Candidate, Completion, Proposal, Task, content_id
from persd.screen import in_words

if TYPE_CHECKING:
    from persd.pool.near import Near
    from persd.sandbox import Sandbox

T = TypeVar("T")

#: How a reply ends that was broken off: by its length, or by the provider's filter.
CUT, FILTERED = "length", "filtered"
#: Why a candidate is not decided yet: its tests are too weak, and more calls are to come.
WAITS = "waits for more calls"

#: A candidate that is not decided yet, and what its proposal amounts to.
Opened = tuple[Candidate, Draft | Rejection]


def opened(
    completion: Completion, call_id: str, brief: Brief, rules: GenerateTable, prompt: str = ""
) -> list[Opened]:
    """What one reply proposes, in its order, never empty: candidates in state ``not_run``.
    ``prompt``: a hash of the question."""
    pieces = read_tasks(completion.text, cut=_is_cut(completion))
    share = None if completion.usd is None else completion.usd / len(pieces)
    found: list[Opened] = []
    for place, piece in enumerate(pieces):
        is_last = place == len(pieces) - 1
        what = _reading(piece, completion.finish if is_last else "stop", rules)
        candidate = Candidate(
            candidate_id=content_id(call_id, place),
            call_id=call_id,
            number=brief.number,
            place=place,
            state="not_run",
            detail="",
            proposal=piece if isinstance(piece, Proposal) else Proposal("", piece.text),
            lineage=_lineage(brief, completion.model, prompt, call_id, share),
        )
        found.append((candidate, what))
    return found


def _is_cut(completion: Completion) -> bool:
    """Whether a reply ends before its end; one of which a filter left nothing holds no task."""
    return completion.finish == CUT or (completion.finish == FILTERED and completion.text != "")


def _reading(piece: Proposal | Unread, finish: str, rules: GenerateTable) -> Draft | Rejection:
    if isinstance(piece, Unread):
        how = "" if finish in ("stop", "length") else f"; the reply ended as {finish}"
        return Rejection("cut" if piece.cut else "no_task", piece.detail + how)
    return drafted(piece, task_id_of(piece), rules)


def task_id_of(proposal: Proposal) -> str:
    """A task's name, from what it asks and how it is solved: the same wherever it is proposed."""
    return f"gen/{content_id(proposal.instruction, proposal.code)[:12]}"


def _lineage(
    brief: Brief, model: str, prompt: str, call_id: str, usd: float | None
) -> dict[str, Any]:
    return {
        "origin": "evolved" if brief.way else "seeds",
        "seeds": [t.task_id for t in brief.shown],
        "topic": brief.topic,
        "difficulty": brief.difficulty,
        "way": brief.way,
        "parent": brief.parent.task_id if brief.parent else "",
        "model": model,
        "prompt": prompt,
        "call": call_id,
        "usd": usd,
    }


@dataclass(slots=True)
class Screen:
    """What proposed tasks are tried on, and what they are held against."""

    box: Sandbox
    elsewhere: Sandbox
    """A second one whose hashes start elsewhere."""
    rules: GenerateTable
    known: Near
    """The seeds, or the tasks that are rewritten."""
    pool: Near
    """What was accepted."""
    overlap: Overlap | None = None
    """The benchmarks; None: there is none."""

    def tried(
        self, items: Iterable[tuple[T, Draft | Rejection]]
    ) -> Iterator[tuple[T, Task | Weak | Rejection]]:
        """What becomes of each alone, in order, streaming."""
        unlike = ((item, self._unlike(found)) for item, found in items)
        return tried(self.box, answered(self.box, self.elsewhere, unlike, self.rules), self.rules)

    def _unlike(self, found: Draft | Rejection) -> Draft | Rejection:
        """The draft, where it is no benchmark's task again."""
        if isinstance(found, Rejection) or self.overlap is None:
            return found
        matches = self.overlap.matches(found.task)
        return Rejection("contaminated", in_words(matches)) if matches else found

    def decided(self, candidate: Candidate, found: Task | Weak | Rejection) -> Candidate:
        """The candidate with its end; one whose tests are weak, and that is new, stays
        ``not_run`` until more calls were asked for, and ends ``weak_tests`` after that.

        What is accepted is what later ones are held against.
        """
        if isinstance(found, Rejection):
            return replace(candidate, state=found.state, detail=found.detail)
        task = found.task if isinstance(found, Weak) else found
        if matches := [*self.known.matches(task), *self.pool.matches(task)]:
            return replace(candidate, state="near_duplicate", detail=in_words(matches))
        if isinstance(found, Weak):
            if candidate.asked_again:
                return replace(candidate, state="weak_tests", detail=found.detail)
            return replace(candidate, detail=f"{WAITS}: {found.detail}")
        self.pool.add(task)
        return replace(candidate, state="accepted", detail="", task=_named(task, candidate.lineage))


def _named(task: Task, lineage: Mapping[str, Any]) -> Task:
    """A task with where it comes from."""
    return replace(task, meta={**task.meta, **lineage})


def more_calls_of(
    candidate: Candidate, weak: Weak, completion: Completion, call_id: str, rules: GenerateTable
) -> Opened:
    """The candidate with the calls of another reply beside its own, to be tried once more."""
    calls = read_calls(completion.text, weak.task.entry_point)
    fresh = [c for c in calls if c not in candidate.proposal.calls]
    usd, paid = completion.usd, candidate.lineage["usd"]
    again = replace(
        candidate,
        asked_again=True,
        lineage={
            **candidate.lineage,
            "more_calls": call_id,
            "usd": None if usd is None or paid is None else paid + usd,
        },
    )
    if not fresh:
        return again, Rejection("weak_tests", f"{weak.detail}; the reply holds no other call")
    wider = replace(candidate.proposal, calls=(*candidate.proposal.calls, *fresh))
    again = replace(again, proposal=wider)
    return again, drafted(wider, weak.task.task_id, rules)
