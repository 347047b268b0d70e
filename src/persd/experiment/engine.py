"""Runs a grid: collections first, each once; then every arm, trained and scored in its own folder.

    dir/collect/NAME   a run: attempts, repairs, and the examples of every variant
    dir/cells/NAME     an arm: its checkpoint, its ledger of samples and verdicts, its scores

All of it is resumed: a collection goes on as a run does, a finished arm is read, an unfinished
one asks for the samples it lacks. Arms share nothing they write to, so they may run side by side.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby, zip_longest
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from persd.benchmarks import hash_of, source_of
from persd.build import build_examples, build_rounds
from persd.config import StudentTable, TeacherTable, TrainTable, is_served
from persd.errors import UserError, WorkFailed
from persd.evaluate import Exam, evaluate
from persd.experiment.grid import Arm, Collection, Grid
from persd.files import replacing
from persd.ledger import FILE_NAME, Ledger
from persd.outcomes import NOT_RUN
from persd.pool.of_run import load_pool
from persd.progress import QUIET, Progress
from persd.records import Evaluation, Example, content_id, derive_seed, from_plain
from persd.run import Run, limits_of
from persd.sandbox import Sandbox
from persd.session import Session, cores, price_for, spent_so_far
from persd.train.mix import is_file, with_mix
from persd.train.of_run import Job, finished, train_variant

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Plan:
    """An arm with what the other arms decide about it."""

    arm: Arm
    examples: int = 0
    """How many it is trained on; 0 for the untrained student."""
    max_steps: int | None = None
    """Optimizer steps; None: as its epochs give."""
    usd: float | None = 0.0
    """What its examples cost; None: a price is unknown."""
    note: str = ""
    """What the reader of its row has to know."""
    skipped: str = ""
    """Why it cannot be run."""


@dataclass(frozen=True, slots=True)
class Cell:
    """An arm, run."""

    plan: Plan
    evaluations: tuple[Evaluation, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of its training: steps, first_loss, last_loss, seconds, tokens."""


def run_grid(
    grid: Grid, *, workers: int = 1, unsafe: bool = False, progress: Progress = QUIET
) -> list[Cell]:
    """Every arm of a grid, run, in their order; what was run before is read.

    ``workers``: processes side by side. Raises UserError and WorkFailed as a run does, naming
    the arm or collection; what was done until then is kept.
    """
    return run_grids([grid], workers=workers, unsafe=unsafe, progress=progress)[0]


def run_grids(
    grids: Sequence[Grid], *, workers: int = 1, unsafe: bool = False, progress: Progress = QUIET
) -> list[list[Cell]]:
    """As ``run_grid``, for several whose folders differ: the arms of all side by side."""
    for grid in grids:
        need_benchmarks(grid)
    share = max(1, cores() // workers)
    with Pool(workers) as pool:
        _collect(grids, pool, unsafe, share, progress)
        plans = [(number, p) for number, grid in enumerate(grids) for p in plan(grid)]
        progress.stage("arms", len(plans))
        do = partial(_run_one, grids, unsafe, share)
        done = {(n, c.plan.arm.key): c for n, c in pool.each(do, plans, progress.step)}
        progress.close()
    return [[done[n, p.arm.key] for n, p in plans if n == number] for number in range(len(grids))]


def _run_one(
    grids: Sequence[Grid], unsafe: bool, workers: int, which: tuple[int, Plan]
) -> tuple[int, Cell]:
    number, planned = which
    return number, run_cell(grids[number], planned, unsafe=unsafe, workers=workers)


class Pool:
    """Processes side by side; with one worker everything is done in this one."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def each(
        self, do: Callable[[T], R], items: Sequence[T], step: Callable[[], None] = lambda: None
    ) -> Iterator[R]:
        """What ``do`` gives for each, as they are done. After an error nothing more is begun,
        what is under way is finished, and the first error is raised."""
        if self._workers == 1:
            for item in items:
                yield do(item)
                step()
            return
        if self._pool is None:
            # spawned: a forked copy of this process would share its threads' locks
            spawn = get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, spawn, initializer=_end_with_parent)
        work = partial(_work, do)
        yield from _finished([self._pool.submit(work, item) for item in items], step)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        try:
            if kind is not None and not issubclass(kind, Exception):
                for process in active_children():
                    process.terminate()  # it closes what it has open
            self._pool.shutdown()
        except KeyboardInterrupt:
            for process in active_children():
                process.kill()
            raise


def _finished(futures: Sequence[Future[R]], step: Callable[[], None]) -> Iterator[R]:
    failed: Exception | None = None
    for future in as_completed(futures):
        if future.cancelled():
            continue
        try:
            result = future.result()
        except BrokenProcessPool:
            failed = failed or WorkFailed(
                "a process of the experiment was killed, perhaps for want of memory; run it again "
                "to go on, with fewer --workers"
            )
        except Exception as error:
            failed = failed or error
        else:
            step()
            yield result
            continue
        for other in futures:
            other.cancel()
    if failed is not None:
        raise failed


def _work(do: Callable[[T], R], item: T) -> R:
    try:
        return do(item)
    except SystemExit:
        os._exit(1)  # asked to end: what is queued for this process is not begun


def _end_with_parent() -> None:
    """In a new process: Ctrl-C is the parent's to hear, and where that ends, this one does."""

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)  # once: what is open is being closed
        raise SystemExit

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors within say whose they are."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error.what}", where=error.where, hint=error.hint) from error
    except WorkFailed as error:
        raise WorkFailed(f"{what}: {error}") from error
    except Exception as error:
        error.add_note(what)
        raise


# ---- collections ------------------------------------------------------------------------------


def _collect(
    grids: Sequence[Grid], pool: Pool, unsafe: bool, workers: int, progress: Progress
) -> None:
    """Every collection, built into examples: one of each group side by side, then the next."""
    groups = [[(grid, c) for c in group] for grid in grids for group in _groups(grid)]
    progress.stage("collections", sum(map(len, groups)))
    do = partial(collect_one, unsafe=unsafe, workers=workers)
    for wave in zip_longest(*groups):
        for told in pool.each(do, [item for item in wave if item is not None], progress.step):
            progress.say(told)
    progress.close()


def _groups(grid: Grid) -> list[list[Collection]]:
    """Collections that come one after the other: those that may ask the same questions, so that
    what one asked the others are told for nothing; all of them, where they share a purse."""
    if any(t.budget_usd is not None for t in grid.table.teacher):
        return [grid.collections()]
    teaches = any(is_served(t, "teacher") for t in grid.table.teacher)

    def asks(c: Collection) -> tuple[object, ...]:
        return (c.seed,) if teaches else (c.seed, c.student)

    ordered = sorted(grid.collections(), key=asks)
    return [list(group) for _, group in groupby(ordered, key=asks)]


def collect_one(which: tuple[Grid, Collection], *, unsafe: bool, workers: int) -> str:
    """Collect and build one of a grid; says in a line what came of it."""
    grid, collection = which
    with _named(f"collection {collection.name}"):
        return _collect_one(grid, collection, unsafe, workers)


def _collect_one(grid: Grid, collection: Collection, unsafe: bool, workers: int) -> str:
    config = grid.config(collection)
    verify = {"unsafe": unsafe or config.verify.unsafe, "workers": config.verify.workers or workers}
    teachers = [
        t
        if t.budget_usd is None
        else t.model_copy(update={"budget_usd": _left(grid, collection, t)})
        for t in config.teacher
    ]
    config = config.model_copy(
        update={"teacher": teachers, "verify": config.verify.model_copy(update=verify)}
    )
    needed = [a for a in grid.arms() if grid.collection(a) == collection]
    with Run(config) as run:
        for path, attempts in _siblings(grid, collection):
            run.ledger.adopt(path, attempts=attempts)
        load_pool(run)
        student = config.student.model
        for number in range(1, collection.rounds + 1):
            _collect_round(run, number, student)
            if number < collection.rounds:
                examples = build_examples(run, collection.promote, number)
                promoted = train_variant(run, collection.promote, number, examples)
                if promoted is None:
                    raise WorkFailed(
                        f"round {number} gave no example of {collection.promote}, so there is no "
                        "student for the next"
                    )
                student = promoted.path
        wanted = {(v, r) for a in needed for v in _built_for(grid, a) for r in a.rounds}
        for variant, round in sorted(wanted):
            build_rounds(run.ledger, lambda: run.box, variant, [round], limits=run.limits)
        states = _states(run)
    return f"{collection.name}: {states}"


def _built_for(grid: Grid, arm: Arm) -> list[str]:
    """The selections that an arm is trained on: its sets and those mixed in."""
    mixed = [m.source for m in grid.train(arm).mix if not is_file(m.source)]
    return [*arm.variants, *mixed]


def _collect_round(run: Run, number: int, student: str) -> None:
    from persd.loop import collect

    collect(run, number, student)
    found = run.ledger.states(number).values()
    silent = [s.detail for s in found if s.state == "unavailable"]
    if silent:
        raise WorkFailed(
            f"{len(silent)} tasks got no answer (the first: {silent[0]}); run it again to ask "
            "once more"
        )


def _states(run: Run) -> str:
    rounds = []
    for number in run.ledger.rounds():
        states = [s.state for s in run.ledger.states(number).values()]
        counts = {s: states.count(s) for s in dict.fromkeys(states)}
        words = ", ".join(f"{n} {s.replace('_', ' ')}" for s, n in counts.items())
        rounds.append(words if number == 1 else f"round {number}: {words}")
    return "; ".join(rounds)


def _left(grid: Grid, collection: Collection, teacher: TeacherTable) -> float:
    """What the collections but one have left of a teacher's cap. The cap is the experiment's: a
    collection's own share of it is known to its own ledger."""
    spent = 0.0
    for other in grid.collections():
        if other == collection:
            continue
        path = Path(grid.config(other).run.dir)
        if (path / FILE_NAME).is_file():
            with Ledger(path, read_only=True) as ledger:
                price = price_for(teacher, "teacher")
                spent += spent_so_far(ledger, "teacher", teacher.model, price)[0]
    return max(0.0, (teacher.budget_usd or 0.0) - spent)


def _siblings(grid: Grid, collection: Collection) -> list[tuple[Path, bool]]:
    """Ledgers of the collections of a seed that come before or after this one and never at its
    side, as far as they are there, and whether the same student attempts."""
    (group,) = [group for group in _groups(grid) if collection in group]
    others = [c for c in group if c.seed == collection.seed and c != collection]
    found = [
        (Path(grid.config(c).run.dir) / FILE_NAME, c.student == collection.student) for c in others
    ]
    return [(path, same) for path, same in found if path.is_file()]


# ---- what the arms decide about each other ----------------------------------------------------


def plan(grid: Grid) -> list[Plan]:
    """Every arm with its number of examples and steps, from the collections' ledgers."""
    stock = _Stock(grid)
    plans = [stock.plan(arm) for arm in grid.arms()]
    return [stock.with_steps(p, plans) for p in plans]


class _Stock:
    """What there is to train on, and what it cost."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._counts: dict[tuple[Any, ...], int] = {}

    def all_of(self, arm: Arm) -> int:
        """Examples of an arm's sets, before any are left out."""
        source = self.grid.collection(arm)
        key = (source, arm.variants, arm.rounds)
        if key not in self._counts:
            self._counts[key] = len(examples_of(self.grid, arm))
        return self._counts[key]

    def plan(self, arm: Arm) -> Plan:
        if not arm.variants:
            return Plan(arm)
        there = self.all_of(arm)
        if not there:
            return Plan(arm, skipped="its sets hold no example")
        each = self._usd(arm)
        each = None if each is None else each / there
        wanted, note = self._wanted(arm, there, each)
        if isinstance(wanted, str):
            return Plan(arm, skipped=wanted)
        if wanted > there:
            wanted, note = there, f"only {there} there"
        return Plan(arm, wanted, usd=None if each is None else each * wanted, note=note)

    def _wanted(self, arm: Arm, there: int, each: float | None) -> tuple[int | str, str]:
        """How many examples an arm is to have, or why that cannot be said; and a note."""
        if arm.match is None or arm.match[0] == "steps":
            size = 1.0 if arm.size is None else arm.size
            return (size if isinstance(size, int) else max(1, round(size * there))), ""
        other = self.grid.reference(arm)
        assert other is not None, "the grid was checked"
        model = self.plan(other)
        if model.skipped:
            return f"{other.name}, which it is matched to, cannot be run: {model.skipped}", ""
        if arm.match[0] == "size":
            return model.examples, ""
        if not each or model.usd is None:
            why = "its own examples cost nothing" if each == 0 else "a price is unknown"
            return f"cannot be matched in money: {why}", ""
        return max(1, math.floor(model.usd / each)), f"for {model.usd:.4f} USD"

    def _usd(self, arm: Arm) -> float | None:
        """What the whole of an arm's sets cost: StanD direct answers alone, the others the
        direct answers and the repairs that say which tasks the student could not do."""
        source = self.grid.collection(arm)
        assert source is not None
        purposes = ["direct"] if set(arm.variants) == {"stand"} else ["direct", "refinement"]
        marks = ",".join("?" * len(purposes))
        sql = (
            "SELECT COUNT(*) AS n, COUNT(json_extract(completion, '$.usd')) AS known, "
            "TOTAL(json_extract(completion, '$.usd')) AS usd FROM calls "
            f"WHERE role = 'teacher' AND round <= ? AND purpose IN ({marks})"
        )
        with Ledger(self.grid.config(source).run.dir, read_only=True) as ledger:
            row = ledger.query(sql, (max(arm.rounds), *purposes))[0]
        return float(row["usd"]) if row["known"] == row["n"] else None

    def with_steps(self, planned: Plan, plans: Sequence[Plan]) -> Plan:
        arm = planned.arm
        if not planned.examples:
            return planned
        if arm.match and arm.match[0] == "steps":
            other = self.grid.reference(arm)
            (model,) = [p for p in plans if p.arm == other]
            if model.skipped:
                why = f"{model.arm.name}, which it is matched to, cannot be run: {model.skipped}"
                return Plan(arm, skipped=why)
            if model.arm.equal == "steps":
                model = self.with_steps(model, plans)
            return replace(planned, max_steps=model.max_steps or self.steps(model))
        if arm.equal == "steps":
            beside = (p for p in plans if (p.arm.student, p.arm.seed) == (arm.student, arm.seed))
            return replace(planned, max_steps=max(self.steps(p) for p in beside))
        return planned

    def steps(self, planned: Plan) -> int:
        """Optimizer steps by the epochs of an arm's own [train]."""
        settings = self.grid.train(planned.arm)
        rows = math.ceil(planned.examples / (1 - sum(m.share for m in settings.mix)))
        return steps_of(rows, settings)


def steps_of(examples: int, settings: TrainTable) -> int:
    """Optimizer steps of a fine-tune: ``max_steps``, or as the epochs give."""
    if settings.max_steps is not None:
        return settings.max_steps
    return math.ceil(math.ceil(examples / settings.batch_size) * settings.epochs)


def examples_of(grid: Grid, arm: Arm) -> list[Example]:
    """All examples of an arm's sets, from the collection's ledger alone."""
    kept: dict[tuple[str, str, str], Example] = {}
    with _built(grid, arm) as build:
        for variant in arm.variants:
            for e in build(variant):
                kept.setdefault((e.task_id, e.prompt, e.completion), e)
    return list(kept.values())


@contextmanager
def _built(grid: Grid, arm: Arm) -> Iterator[Callable[[str], list[Example]]]:
    """What a selection holds in the arm's rounds, as its collection has built it."""
    source = grid.collection(arm)
    if source is None:
        yield lambda selection: []
        return
    config = grid.config(source)
    with Ledger(config.run.dir, read_only=True) as ledger:
        build = partial(
            build_rounds,
            ledger,
            partial(_not_built, config.run.dir),
            rounds=arm.rounds,
            limits=limits_of(config),
        )
        yield lambda selection: build(selection)[0]


def trained_on(grid: Grid, planned: Plan) -> list[Example]:
    """The examples of an arm that were drawn, and what its ``train.mix`` adds to them."""
    arm = planned.arm
    own = drawn(examples_of(grid, arm), planned.examples, arm.seed)
    with _built(grid, arm) as build:
        settings = grid.train(arm).but(seed=arm.seed)
        return with_mix(own, settings, build, grid.student(arm.student))


def _not_built(folder: str) -> Sandbox:
    raise WorkFailed(f"{folder} was changed since its examples were built: run it again")


def drawn(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """``count`` of the examples by chance, in their order; a smaller draw is part of a larger."""
    by_chance = sorted(examples, key=lambda e: derive_seed(seed, "subset", e.example_id))
    chosen = {e.example_id for e in by_chance[:count]}
    return [e for e in examples if e.example_id in chosen]


# ---- one arm ----------------------------------------------------------------------------------


def run_cell(grid: Grid, planned: Plan, *, unsafe: bool = False, workers: int = 1) -> Cell:
    """Train and score one arm in its folder; read what was done before."""
    if planned.skipped:
        return Cell(planned)
    arm = planned.arm
    with _named(f"arm {arm.name} of {arm.student}, seed {arm.seed}"):
        return _run_cell(grid, planned, unsafe, workers)


def _run_cell(grid: Grid, planned: Plan, unsafe: bool, workers: int) -> Cell:
    arm, folder = planned.arm, cell_folder(grid, planned.arm)
    student = grid.student(arm.student)
    examples = trained_on(grid, planned)
    settings = grid.train(arm).but(seed=arm.seed)
    if planned.max_steps is not None:
        settings = settings.but(max_steps=planned.max_steps)
    inputs = _inputs(grid, planned, examples, settings)
    stored = _stored(score_file(grid, arm), inputs)
    if stored is not None:
        return replace(stored, plan=planned)
    model, metrics = student.model, dict[str, float]()
    if arm.variants:
        model, metrics = _trained(folder, student, examples, settings)
    verify = grid.table.verify
    verify = verify.model_copy(
        update={"unsafe": unsafe or verify.unsafe, "workers": verify.workers or workers}
    )
    found: list[Evaluation] = []
    with Session(folder, seed=arm.seed, student=student, verify=verify) as session:
        found = list(_scores(grid, arm, session, model))
    cell = Cell(planned, tuple(found), metrics)
    _write(score_file(grid, arm), {**asdict(cell), "inputs": inputs})
    return cell


def _scores(grid: Grid, arm: Arm, session: Session, model: str) -> Iterable[Evaluation]:
    from persd.benchmarks import held_out

    table = grid.table.evaluate
    for benchmark in table.benchmarks:
        exam = Exam(session, benchmark, held_out(session, benchmark, table), table, arm.feedback)
        yield from evaluate(exam, model, name=arm.name)


def cell_folder(grid: Grid, arm: Arm) -> Path:
    """The folder of an arm: its name where a person looks for it, its key where it is unlike."""
    name = re.sub(r"[^a-z0-9.]+", "-", arm.name.lower()).strip("-")[:60]
    return grid.dir / "cells" / f"{arm.student}-{name}-seed{arm.seed}-{arm.key[:8]}"


def score_file(grid: Grid, arm: Arm) -> Path:
    """Where an arm's scores lie: those of other [evaluate] settings lie beside them."""
    settings = content_id(grid.table.evaluate.model_dump(mode="json"))
    return cell_folder(grid, arm) / f"cell-{settings[:8]}.json"


def _inputs(grid: Grid, planned: Plan, examples: Sequence[Example], settings: TrainTable) -> str:
    """All that a cell's figures follow from: the same, the same figures."""
    student, table = grid.student(planned.arm.student), grid.table
    if not planned.arm.variants:
        settings = TrainTable()  # nothing is trained
    base = Job(student, examples, settings).key()
    evaluated = table.evaluate.model_dump(mode="json")
    verify = table.verify.model_dump(mode="json", exclude={"workers", "unsafe"})
    sampled = student.model_dump(mode="json", include={"api", "temperature", "top_p"})
    files = [hash_of(b, table.evaluate) for b in table.evaluate.benchmarks]
    arm = planned.arm
    return content_id(base, evaluated, files, verify, sampled, arm.feedback, arm.seed)


def _stored(path: Path, inputs: str) -> Cell | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.get("inputs") != inputs:
            return None
        found = tuple(from_plain(Evaluation, e) for e in told["evaluations"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # none yet, or not ours: it is made again
    if any(e.statuses.get(NOT_RUN) for e in found):
        return None  # the judge may have been in trouble; no reply is asked for again
    return Cell(Plan(Arm("", "", 0)), found, told["metrics"])


def _trained(
    folder: Path, student: StudentTable, examples: Sequence[Example], settings: TrainTable
) -> tuple[str, dict[str, float]]:
    """The checkpoint of an arm, trained unless it is there, and what its training says."""
    out, job = folder / "checkpoint", Job(student, examples, settings)
    return str(out), finished(out, job.key()) or job.run(out, QUIET)


def _write(path: Path, plain: Mapping[str, Any]) -> None:
    with replacing(path, "a finished arm", folder=True) as unfinished:
        unfinished.write_text(json.dumps(plain, sort_keys=True) + "\n", encoding="utf-8")


def need_benchmarks(grid: Grid) -> None:
    """Raises UserError for a grid that scores nothing, or on what is not there: before anything
    is paid."""
    table = grid.table.evaluate
    if not table.benchmarks:
        raise UserError(
            "evaluate.benchmarks is empty, so the experiment would have no figures",
            hint='Give [evaluate] benchmarks = ["humaneval", "mbpp"]',
        )
    for benchmark in table.benchmarks:
        _, path = source_of(benchmark, table)
        if path is not None and not Path(path).is_file():
            raise UserError(f"no file for {benchmark}", where=path, hint="Mend evaluate.data")
