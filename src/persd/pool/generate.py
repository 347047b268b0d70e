"""A teacher writes tasks until enough are accepted, the money is spent, or nothing comes.

Questions are numbered; what one asks follows from its number alone, so that a killed run goes on
where it was and pays nothing twice. They are asked in waves, each as large as what is still wanted
needs at the acceptance seen so far. Within a wave answers stream into the sandbox as they come;
what is new is decided in the order of the questions, so that the same answers make the same pool,
whatever the timing. Tests that are too weak get more calls, once, at the end of their wave.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from persd.benchmarks import held_out
from persd.calls import Answer, call_id
from persd.config import Endpoint, EvaluateTable, GenerateTable
from persd.domains.authoring import more_calls, write_tasks
from persd.domains.prompts import shorten
from persd.errors import UserError
from persd.ledger import Ledger
from persd.money import most_tokens
from persd.overlap import Overlap
from persd.pool import steer
from persd.pool.drafts import Draft, Rejection
from persd.pool.evolve import evolving, parents_of
from persd.pool.screening import WAITS, Screen, more_calls_of, opened
from persd.pool.seeds import read_seeds
from persd.pool.strength import Weak
from persd.records import (
    Brief,
    Candidate,
    Message,
    Purpose,
    Request,
    Task,
    Usage,
    content_id,
    content_of,
    derive_seed,
)
from persd.sandbox import Sandbox
from persd.session import Session, price_for

if TYPE_CHECKING:
    from persd.pool.near import Near

#: Questions after which nothing accepted is a failure, and how many times the usual distance
#: between two that gave something.
PATIENCE, LONGER = 20, 5
#: Questions of the first wave, and of any, at most; where something was accepted, each may be twice
#: as long as all before.
FIRST, MOST = 50, 1000
#: What acceptance is taken to be before anything is known: as if so many questions had given
#: this share of the tasks they ask for.
_AS_IF, _SHARE = 4, 0.75
#: How much more is asked than is needed in the mean.
_MORE = 1.1

#: The ledger's fact in which the asking stands.
BOOK = "generate"


# -- what is asked ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asking:
    """What every question asks, by its number, and what may not be written again."""

    brief: Callable[[int], Brief]
    known: Sequence[Task]
    """The seeds, or the tasks to be rewritten."""
    name: str
    """What those are: ``seeds`` or ``parents``."""

    @property
    def content(self) -> str:
        """What the questions follow from, beside the settings."""
        return content_id([content_of(t) for t in self.known])


def asking(rules: GenerateTable, seed: int, unsafe: bool = False) -> Asking:
    """The questions of these rules. Raises UserError where seeds or parents cannot be read."""
    if rules.evolve is not None:
        parents = parents_of(rules, unsafe)
        tasks = [p.task for p in parents]
        return Asking(lambda n: evolving(rules, parents, seed, n), tasks, "parents")
    seeds = read_seeds(rules, unsafe)
    return Asking(lambda n: steer.brief_of(rules, seeds, seed, n), seeds, "seeds")


def benchmarks_of(session: Session, rules: GenerateTable, hint: str) -> dict[str, Sequence[Task]]:
    """The tasks of the benchmarks that the rules name, by name. ``hint``: what to do where the one
    that ``{}`` stands for cannot be read, which is a UserError."""
    table = EvaluateTable(benchmarks=list(rules.against), data=dict(rules.data))
    found: dict[str, Sequence[Task]] = {}
    for name in rules.against:
        try:
            found[name] = held_out(session, name, table)
        except UserError as error:
            told = f"the tasks cannot be held against {name}: {error.what}"
            raise UserError(told, where=error.where, hint=hint.format(name)) from error
    return found


def question(rules: GenerateTable, brief: Brief, seed: int) -> Request:
    """The question for new tasks, or for a rewrite."""
    name = f"question {brief.number}"
    return _request(rules, "task", write_tasks(brief), brief, Task(name, "", "", ""), seed)


def question_for_calls(rules: GenerateTable, brief: Brief, weak: Weak, seed: int) -> Request:
    """The question for more calls of a task whose tests are too weak."""
    told = replace(brief, parent=weak.task, wrong=weak.survivor, way="", count=1, calls=rules.calls)
    return _request(rules, "calls", more_calls(told), told, weak.task, seed)


def _request(
    rules: GenerateTable,
    purpose: Purpose,
    messages: tuple[Message, ...],
    brief: Brief,
    task: Task,
    seed: int,
) -> Request:
    return Request(
        purpose=purpose,
        messages=messages,
        task=task,
        seed=derive_seed(seed, purpose, brief.number, task.task_id),
        temperature=rules.temperature,
        top_p=rules.top_p,
        max_tokens=rules.max_tokens,
        round=0,
        brief=brief,
    )


def wave_size(need: int, asked: int, accepted: int, per_call: int, most: int) -> int:
    """Questions for ``need`` more tasks, where ``asked`` of them gave ``accepted``."""
    rate = (accepted + _AS_IF * _SHARE * per_call) / (asked + _AS_IF)
    return max(1, min(most, math.ceil(_MORE * need / rate)))


@dataclass(frozen=True, slots=True)
class Likely:
    """What is still to be asked, where as many tasks are accepted as before, or as is usual."""

    questions: int
    most: Usage
    """Tokens of all of them at most; more calls for tasks with weak tests come on top."""

    def usd(self, teacher: Endpoint) -> float | None:
        """What that costs at most, and no more than the cap. None: the price is not known."""
        price = price_for(teacher, "teacher")
        if price is None:
            return None
        usd = round(price.cost(self.most), 4)
        return usd if teacher.budget_usd is None else min(usd, teacher.budget_usd)


def likely_questions(
    rules: GenerateTable, asked: Asking, seed: int, ledger: Ledger | None = None
) -> Likely:
    """What is to be asked; ``ledger``: of the folder, where there is one."""
    known = Counts.of(ledger) if ledger is not None else Counts(0, 0, 0)
    need = rules.count - known.accepted
    if need <= 0:
        return Likely(0, Usage())
    count = wave_size(need, known.questions, known.accepted, rules.per_call, 10 * rules.count)
    shown = [question(rules, asked.brief(n), seed) for n in range(min(count, FIRST))]
    each = [most_tokens(r.messages, r.max_tokens) for r in shown]
    into = sum(m.input_tokens for m in each) * count // len(each)
    return Likely(count, Usage(into, rules.max_tokens * count, known=False))


# -- what stands in the ledger ------------------------------------------------------------------


@dataclass(slots=True)
class Book:
    """How far a folder's asking has come."""

    settings: dict[str, Any]
    """What its candidates follow from; a change of it is refused."""
    count: int
    """Tasks wanted by the run that wrote this."""
    asked: int = 0
    """Questions begun: those below this number."""
    unanswered: dict[str, str] = field(default_factory=dict)
    """Why a question (or what asks for more calls) has no answer, by its number."""


#: Settings that may change while tasks are written: how many, and where what is read lies.
FREE = frozenset({"count", "author", "path", "data"})


def settings_of(rules: GenerateTable, teacher: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What the candidates of a folder follow from beside contents, as plain JSON."""
    told = rules.model_dump(mode="json", exclude=set(FREE))
    return {**told, **{f"teacher.{name}": value for name, value in teacher.items()}, "seed": seed}


def _contents(
    rules: GenerateTable, asked: Asking, benchmarks: Mapping[str, Sequence[Task]]
) -> dict[str, str]:
    """The same of what was read: that it lies elsewhere does not matter, that it is other does."""
    against = {
        f"content of {name}": content_id(
            [(t.instruction, t.header, t.reference) for t in benchmarks[name]]
        )
        for name in rules.against
    }
    return {f"content of the {asked.name}": asked.content, **against}


def open_book(ledger: Ledger, settings: Mapping[str, Any], count: int) -> Book:
    """The book of a folder, begun where there is none.

    Raises UserError naming the settings that contradict what the folder's tasks were made with.
    """
    stored = ledger.meta(BOOK)
    if stored is None:
        return Book(dict(settings), count)
    book = Book(**json.loads(stored))
    before = {**dict.fromkeys(settings), **book.settings}
    changed = {k: (v, settings.get(k)) for k, v in before.items() if v != settings.get(k)}
    if changed:
        told = "; ".join(f"{k}: {a!r} -> {b!r}" for k, (a, b) in sorted(changed.items()))
        raise UserError(
            f"its tasks were written with other settings ({told})",
            where=str(ledger.run),
            hint="put them back, or use another folder (--run; of a run: run.dir)",
        )
    return book


def unsettled(ledger: Ledger, book: Book) -> list[int]:
    """The questions that have no answer, or a candidate that is not decided."""
    sql = "SELECT number FROM candidates GROUP BY number HAVING SUM(state = 'not_run') = 0"
    settled = {int(row["number"]) for row in ledger.query(sql)}
    return [n for n in range(book.asked) if n not in settled]


def accepted(ledger: Ledger, count: int | None = None) -> Iterator[Task]:
    """The tasks that were accepted, in the order they were, the first ``count`` of them; one in
    memory at a time."""
    sql = (
        "SELECT candidate_id FROM candidates WHERE state = 'accepted' "
        "ORDER BY position, rowid LIMIT ?"
    )
    rows = ledger.query(sql, (-1 if count is None else count,))
    for row in rows:
        candidate = ledger.candidate(row["candidate_id"])
        if candidate is not None and candidate.task is not None:
            yield candidate.task


# -- the asking ---------------------------------------------------------------------------------

Why = Literal["enough", "over_budget", "nothing", "stopped"]


@dataclass(frozen=True, slots=True)
class Ended:
    """Why no more was asked."""

    why: Why
    detail: str = ""


def generate(
    session: Session,
    rules: GenerateTable,
    asked: Asking,
    benchmarks: Mapping[str, Sequence[Task]],
) -> Ended:
    """Have tasks written until ``rules.count`` are accepted; everything is in the ledger.

    Raises UserError where the folder's candidates were made with other settings, WorkFailed where
    the teacher does not answer at all.
    """
    teacher = session.teacher(rules.author).model
    settings = settings_of(rules, teacher.identity, session.seed)
    settings |= _contents(rules, asked, benchmarks)
    book = open_book(session.ledger, settings, rules.count)
    is_enough = Counts.of(session.ledger).accepted >= rules.count
    if is_enough and not unsettled(session.ledger, book):
        return Ended("enough")
    overlap = Overlap(benchmarks) if benchmarks else None
    box = session.box
    with (
        session.heeding(),
        Sandbox(workers=box.workers, unsafe=box.unsafe, seed=_OTHER_HASHES) as elsewhere,
    ):
        known, pool = _near(asked.name, asked.known), _near("pool", accepted(session.ledger))
        screen = Screen(box, elsewhere, rules, known, pool, overlap)
        return _Writing(session, rules, asked, screen, book).until_enough()


#: Where hashes start in the second sandbox.
_OTHER_HASHES = 1


def _near(name: str, tasks: Iterable[Task]) -> Near:
    """Tasks that are not to be written again."""
    from persd.pool.near import Near

    near = Near(name)
    for task in tasks:
        near.add(task)
    return near


@dataclass(slots=True)
class Counts:
    """What has come of the questions so far."""

    accepted: int
    questions: int
    """Questions with a candidate."""
    positions: int
    """The next free position of a candidate."""

    @classmethod
    def of(cls, ledger: Ledger) -> Counts:
        """Those of a folder."""
        sql = (
            "SELECT COUNT(DISTINCT number) AS questions, TOTAL(state = 'accepted') AS accepted, "
            "COALESCE(MAX(position) + 1, 0) AS positions FROM candidates"
        )
        row = ledger.query(sql)[0]
        return cls(int(row["accepted"]), int(row["questions"]), int(row["positions"]))


@dataclass(frozen=True, slots=True)
class _Piece:
    """One candidate of a reply on its way through the screening."""

    number: int
    """Its reply's turn."""
    candidate: Candidate | None
    """None: the question has no answer."""
    is_known: bool = False
    """An earlier process has decided it."""
    is_last: bool = True
    """Of its reply."""
    waits: bool = False
    """An earlier process has found it new, and died before it had more calls."""


#: A reply's pieces, each with what it is.
_Reply = list[tuple[_Piece, Task | Weak | Rejection]]
_Pieces = Iterator[tuple[_Piece, Draft | Rejection]]

#: Goes through the screening untouched, for what is not to be tried.
_NOTHING = Rejection("not_run", "")


class _Writing:
    """The waves of one process."""

    def __init__(
        self, session: Session, rules: GenerateTable, asked: Asking, screen: Screen, book: Book
    ) -> None:
        self.session, self.rules, self.asked = session, rules, asked
        self.screen, self.book = screen, book
        self.ledger, self.asker = session.ledger, session.teacher(rules.author)
        self.counts = Counts.of(self.ledger)
        self.open = unsettled(self.ledger, book)
        """Questions of earlier processes that are not settled."""
        self.is_same = book.count == rules.count
        """They are the rest of waves that were as large as is wanted now."""
        self.dry = 0
        """Questions of this process since the last one that gave a task."""
        self.reasons: Counter[str] = Counter()
        """What became of those."""
        self.words: dict[str, str] = {}
        """The last of each, in words."""

    # -- waves --

    def until_enough(self) -> Ended:
        """Ask wave after wave."""
        progress = self.session.progress
        progress.stage("tasks", self.rules.count)
        progress.resume(self.counts.accepted)
        if self.counts.accepted >= self.rules.count:
            # a process that had enough died before it decided on all that it had paid for
            self._wave([n for n in self.open if self._is_paid(self._question(n))])
        while self.counts.accepted < self.rules.count:
            self._wave(self._next())
            if self.session.stopping.is_set():
                return self._ended("stopped")
            if self.counts.accepted >= self.rules.count:
                break
            if "over_budget" in self.words:
                return self._ended("over_budget", self.words["over_budget"])
            if self.dry >= self._patience:
                return self._ended("nothing", self._commonest())
        return self._ended("enough")

    def _next(self) -> Sequence[int]:
        """The questions of the next wave; those of one that was broken off are its rest."""
        known = self.counts
        longer, gives = 2 * known.questions, known.accepted > 0
        most = min(MOST, max(FIRST, longer)) if gives else FIRST
        if self.asker.batches is not None and (gives or not known.questions):
            most = max(MOST, longer)  # they take as long whatever they hold
        need = self.rules.count - known.accepted
        size = wave_size(need, known.questions, known.accepted, self.rules.per_call, most)
        if self.open:
            taken = len(self.open) if self.is_same else size
            numbers, self.open = self.open[:taken], self.open[taken:]
            return numbers
        begun, self.book.asked = self.book.asked, self.book.asked + size
        self.is_same = True
        self._keep_book()
        return range(begun, self.book.asked)

    @property
    def _patience(self) -> int:
        """Questions without a task that are too many, as long as those before gave some."""
        known = self.counts
        usual = (known.questions - self.dry) / known.accepted if known.accepted else 0
        return max(PATIENCE, math.ceil(LONGER * usual))

    def _commonest(self) -> str:
        told = [
            f"{n} {why} ({shorten(self.words[why], 200)})" for why, n in self.reasons.most_common(3)
        ]
        return f"{self.dry} questions in a row gave no new task: {'; '.join(told)}"

    def _keep_book(self) -> None:
        self.book.count = self.rules.count
        self.ledger.set_meta(BOOK, json.dumps(asdict(self.book), sort_keys=True))

    def _ended(self, why: Why, detail: str = "") -> Ended:
        self._keep_book()
        return Ended(why, detail)

    # -- one wave --

    def _wave(self, numbers: Sequence[int]) -> None:
        """Ask these questions and decide on what comes; then ask for more calls where they are
        wanted, and decide again."""
        weak: list[tuple[Candidate, Weak]] = []
        for reply in self._in_order(self._asked(numbers), numbers):
            self.dry += 1
            weak += self._decide(reply)
        if self.counts.accepted >= self.rules.count:  # not paid for what is not wanted
            paid = [one for one in weak if self._is_paid(self._question_for_calls(*one))]
            self._give_up([one for one in weak if one not in paid])
            weak = paid
        if weak and not self.session.stopping.is_set():
            for reply in self._in_order(self._asked_for_calls(weak), range(len(weak))):
                self._decide(reply)
        self.counts = Counts.of(self.ledger)

    def _in_order(self, pieces: _Pieces, numbers: Iterable[int]) -> Iterator[_Reply]:
        """The replies with what their pieces are, in the order of the numbers; none after one
        that is missing, because the run is being stopped."""
        early: dict[int, _Reply] = {}
        order = iter(numbers)
        turn, reply = next(order, None), list[Any]()
        for piece, found in self.screen.tried(pieces):
            reply.append((piece, found))
            if piece.is_last:
                early[piece.number], reply = reply, []
            while turn in early:
                yield early.pop(turn)
                turn = next(order, None)

    def _asked(self, numbers: Sequence[int]) -> _Pieces:
        """What the replies to these questions propose, as they come."""

        def questions() -> Iterator[tuple[Brief, Request]]:
            for number in numbers:
                if self.session.stopping.is_set():
                    return
                request = self._question(number)
                assert request.brief is not None, "it asks for tasks"
                yield request.brief, request

        for brief, answer in self.asker.stream(questions()):
            assert answer is not None, "every question is asked"
            if self._is_missing(brief.number, answer):
                yield _Piece(brief.number, None), _NOTHING
            else:
                yield from self._opened(brief, answer)

    def _opened(self, brief: Brief, answer: Answer) -> _Pieces:
        assert answer.completion is not None, "an answer that is missing proposes nothing"
        prompt = content_id([(m.role, m.content) for m in answer.request.messages])
        found = opened(answer.completion, answer.call_id, brief, self.rules, prompt)
        for candidate, draft in found:
            is_last = candidate.place == len(found) - 1
            stored = self.ledger.candidate(candidate.candidate_id)
            if stored is not None and stored.state != "not_run":
                yield _Piece(brief.number, stored, True, is_last), _NOTHING
            elif stored is not None and stored.detail.startswith(WAITS):
                yield _Piece(brief.number, stored, False, is_last, waits=True), draft
            else:
                yield _Piece(brief.number, candidate, False, is_last), draft

    def _asked_for_calls(self, weak: Sequence[tuple[Candidate, Weak]]) -> _Pieces:
        """The same candidates with the calls of another reply beside their own."""

        def questions() -> Iterator[tuple[int, Request]]:
            for turn, one in enumerate(weak):
                if self.session.stopping.is_set():
                    return
                yield turn, self._question_for_calls(*one)

        for turn, answer in self.asker.stream(questions()):
            assert answer is not None, "every question is asked"
            candidate, found = weak[turn]
            if self._is_missing(candidate.number, answer):
                yield _Piece(turn, None), _NOTHING
                continue
            assert answer.completion is not None, "it is not missing"
            again, draft = more_calls_of(
                candidate, found, answer.completion, answer.call_id, self.rules
            )
            yield _Piece(turn, again), draft

    def _question(self, number: int) -> Request:
        return question(self.rules, self.asked.brief(number), self.session.seed)

    def _question_for_calls(self, candidate: Candidate, weak: Weak) -> Request:
        brief = self.asked.brief(candidate.number)
        return question_for_calls(self.rules, brief, weak, self.session.seed)

    def _is_paid(self, request: Request) -> bool:
        """Whether the answer is in the ledger."""
        return self.ledger.completion(call_id(self.asker.model, request)) is not None

    def _is_missing(self, number: int, answer: Answer) -> bool:
        """Whether a question has no answer, which is noted."""
        if answer.missing is None:
            self.book.unanswered.pop(str(number), None)
            return False
        self.book.unanswered[str(number)] = answer.missing
        self._remember(answer.missing, answer.detail)
        return True

    # -- decisions --

    def _decide(self, reply: _Reply) -> list[tuple[Candidate, Weak]]:
        """Decide on the candidates of a reply, which are stored together; gives those that want
        more calls."""
        decided: list[Candidate] = []
        weak: list[tuple[Candidate, Weak]] = []
        for piece, found in reply:
            if piece.candidate is None or piece.is_known:
                continue
            if piece.waits and isinstance(found, Weak):
                weak.append((piece.candidate, found))
                continue
            at = replace(piece.candidate, position=self.counts.positions)
            self.counts.positions += 1
            candidate = self.screen.decided(at, found)
            decided.append(candidate)
            if candidate.state == "not_run" and isinstance(found, Weak):
                weak.append((candidate, found))
        self.ledger.add_candidates(decided)
        self._tell(decided)
        return weak

    def _give_up(self, weak: Sequence[tuple[Candidate, Weak]]) -> None:
        """End those that want more calls without asking for any."""
        ended = [replace(c, state="weak_tests", detail=found.detail) for c, found in weak]
        self.ledger.add_candidates(ended)
        self.session.progress.step(0, weak_tests=len(ended))

    def _tell(self, decided: Sequence[Candidate]) -> None:
        """Count what was decided, and show it."""
        states = Counter(str(c.state) for c in decided if not c.detail.startswith(WAITS))
        new = states["accepted"]
        self.counts.accepted += new
        if new:
            self.dry = 0
            self.reasons.clear()
        for candidate in decided:
            self._remember(candidate.state, candidate.detail)
        self.session.tell_money()
        self.session.progress.step(new, **{state: n for state, n in states.items() if n > 0})

    def _remember(self, why: str, words: str) -> None:
        if why != "accepted":
            self.reasons[why] += 1
            self.words[why] = words
