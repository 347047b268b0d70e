"""The grid of an experiment: a TOML file of axes, and the arms their product makes.

An arm is one row of the final table at one seed: a student, the examples it is trained on, how
many of them, and how they were collected. A collection is one run that examples come from; arms
share it. The words of the file are those of the tables below; ``[tasks]``, ``[[teacher]]``,
``[train]``, ``[evaluate]`` and ``[verify]`` are a run's own (``persd.config``).
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from persd.config import (
    Config,
    EvaluateTable,
    RunTable,
    StudentTable,
    TasksTable,
    TeacherTable,
    TomlFile,
    TrainTable,
    VerifyTable,
    read_toml,
    validated,
)
from persd.records import VARIANTS, Variant, content_id

Prompt = Literal["close", "free", "blind"]
Equal = Literal["epochs", "steps"]
MatchKind = Literal["size", "usd", "steps"]

USAGE = "persd experiment GRID.toml"
#: Value of ``data_of`` for a student trained on its own examples.
OWN = "own"
#: How a missing checkpoint of the embedded family is made.
PRETRAIN = "python -m persd.lab.pretrain --out {} --seed 1"


def _sets_of(text: str) -> tuple[str, ...]:
    """The sets of a variant or a mix, ``persd+stand``, in the paper's order.

    Raises ValueError for a set that is none, or is named twice.
    """
    sets = [part.strip() for part in text.split("+")]
    for name in sets:
        if name not in VARIANTS:
            near = difflib.get_close_matches(name, VARIANTS, n=1)
            guess = f"did you mean {near[0]}?" if near else f"known: {', '.join(VARIANTS)}"
            raise ValueError(f"unknown variant {name!r}; {guess}")
        if sets.count(name) > 1:
            raise ValueError(f"{text!r} mixes {name} with itself")
    return tuple(sorted(sets, key=VARIANTS.index))


def _rounds_of(text: str) -> tuple[int, ...]:
    """The rounds of ``"1+2"``, ascending. Raises ValueError for what names none."""
    if not re.fullmatch(r"[1-9](\s*\+\s*[1-9])*", text):
        raise ValueError(f'{text!r} names no rounds; say "1", "2" or "1+2"')
    rounds = [int(part) for part in text.split("+")]
    if len(set(rounds)) < len(rounds):
        raise ValueError(f"{text!r} names a round twice")
    return tuple(sorted(rounds))


def _is_size(value: int | float) -> int | float:
    if isinstance(value, float):
        if not 0 < value <= 1:
            raise ValueError("a share of the examples lies above 0 and is at most 1.0")
        return round(value, 6)
    if value < 2:
        raise ValueError("a whole number is a number of examples, 2 or more; all of them are 1.0")
    return value


def _checked(reads: Any) -> AfterValidator:
    """The text itself, once it can be read."""

    def check(text: str) -> str:
        reads(text)
        return text

    return AfterValidator(check)


Sets = Annotated[str, _checked(_sets_of)]
Rounds = Annotated[str, _checked(_rounds_of)]
Size = Annotated[int | float, AfterValidator(_is_size)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class _Table(BaseModel):
    model_config = Config.model_config


class ExperimentTable(_Table):
    """The axes. The product of all is run; rows that mean the same are merged."""

    dir: str = Field(min_length=1)
    """Every collection, checkpoint and table lies under it."""
    seeds: list[Seed] = Field(default=[0], min_length=1)
    """Of the tasks' choice, the attempts and the training."""
    variants: list[str] = Field(min_length=1)
    """The paper's sets; ``stand+persd`` is a mix of two."""
    sizes: list[Size] = Field(default=[1.0], min_length=1)
    """A share of the arm's examples (float, at most 1.0), or how many (int)."""
    rounds: list[Rounds] = Field(default=["1"], min_length=1)
    """Whose examples are trained on: ``1``, ``2``, or both, ``1+2``."""
    feedback: list[bool] = Field(default=[True], min_length=1)
    """false: neither teacher nor student is told what the judge said."""
    prompts: list[Prompt] = Field(default=["close"], min_length=1)
    """What the teacher is told beside the attempt: ``close`` shows its own earlier answer and asks
    to stay close to the attempt, ``free`` does not ask that, ``blind`` does not show the answer."""
    data_of: list[str] = Field(default=[OWN], min_length=1)
    """Whose attempts the examples come from: ``own``, or another student's name."""
    equal: list[Equal] = Field(default=["epochs"], min_length=1)
    """``epochs``: each arm as [train] says; ``steps``: each as many optimizer steps as the longest
    arm of its student and seed."""
    base: bool = True
    """Score the untrained student as well."""
    promote: Variant | None = None
    """The set whose student attempts in the next round; None: the last one of ``variants``."""

    @field_validator("variants")
    @classmethod
    def _are_sets(cls, value: list[str]) -> list[str]:
        for text in value:  # over the whole list, so that a mix's fault is told in our words
            _sets_of(text)
        return value

    @property
    def promoted(self) -> Variant:
        return self.promote or _sets_of(self.variants[-1])[-1]  # type: ignore[return-value]


class MatchTable(_Table):
    """One of: what a row has as much of as another variant's row has."""

    size: Sets | None = None
    """As many examples as that variant."""
    usd: Sets | None = None
    """As many examples as the money buys that the variant's own cost."""
    steps: Sets | None = None
    """As many optimizer steps as that variant."""

    @model_validator(mode="after")
    def _is_one(self) -> MatchTable:
        if len(self.given()) != 1:
            raise ValueError("give one of size, usd and steps, and the variant to match")
        return self

    def given(self) -> list[tuple[MatchKind, str]]:
        kinds: tuple[MatchKind, ...] = ("size", "usd", "steps")
        told = [(kind, getattr(self, kind)) for kind in kinds]
        return [(kind, _named(_sets_of(text))) for kind, text in told if text is not None]


class ArmTable(_Table):
    """Rows beside the product, one a student and seed; an axis that is not given takes the first
    value of the grid's."""

    variant: Sets
    student: str | None = None
    """None: every student."""
    match: MatchTable | None = None
    size: Size | None = None
    rounds: Rounds | None = None
    feedback: bool | None = None
    prompt: Prompt | None = None
    data_of: str | None = None
    equal: Equal | None = None
    train: TrainTable = TrainTable()
    """Keys laid over [train] and the student's."""

    @model_validator(mode="after")
    def _one_measure(self) -> ArmTable:
        kind = self.match.given()[0][0] if self.match else None
        if kind in ("size", "usd") and self.size is not None:
            raise ValueError(f"match.{kind} decides how many examples, and so does size")
        if kind == "steps" and self.equal is not None:
            raise ValueError("match.steps decides how many optimizer steps, and so does equal")
        return self


class StudentRow(StudentTable):
    """A student of the grid."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=40)
    """What the tables and folders call it."""
    train: TrainTable = TrainTable()
    """Keys laid over [train]."""


class GridTable(_Table):
    """The whole file."""

    experiment: ExperimentTable
    arm: list[ArmTable] = []
    student: list[StudentRow] = Field(min_length=1)
    tasks: TasksTable
    teacher: list[TeacherTable] = Field(min_length=1)
    train: TrainTable = TrainTable()
    evaluate: EvaluateTable = EvaluateTable()
    verify: VerifyTable = VerifyTable()

    @field_validator("arm", "student", "teacher", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @field_validator("tasks")
    @classmethod
    def _is_there(cls, value: TasksTable) -> TasksTable:
        if value.generate is not None or value.difficulty is not None:
            raise ValueError(
                "every arm learns from one pool, so it is made before: persd tasks generate and "
                'persd tasks difficulty write a file, which source = "jsonl" reads'
            )
        return value


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of the table at one seed."""

    student: str
    """Name of the student that is trained and scored."""
    data_of: str
    """Name of the student whose attempts the examples come from, or ``own``."""
    seed: int
    variants: tuple[str, ...] = ()
    """The set trained on, or the sets mixed, in the paper's order; empty: the untrained student."""
    size: float | int | None = None
    """Share of the examples (float), or their number (int); None: ``match`` decides, or there are
    none."""
    match: tuple[MatchKind, str] | None = None
    """What there is as much of as the unmatched row of a variant has (``Grid.reference``)."""
    rounds: tuple[int, ...] = (1,)
    """Rounds whose examples are trained on, ascending."""
    feedback: bool = True
    """Whether teacher and student are told what the judge said."""
    prompt: Prompt = "close"
    equal: Equal = "epochs"
    train: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """This row's own keys over [train]; ``Grid.train`` gives all that holds for it."""

    @property
    def name(self) -> str:
        """Short label of the row, one for each row of a student: ``persd rounds 1+2``."""
        words = [_named(self.variants) or "base", *_parts_of_size(self.size)]
        if self.rounds != (1,):
            plural = "s" * (len(self.rounds) > 1)
            words.append(f"round{plural} {'+'.join(map(str, self.rounds))}")
        if self.data_of != OWN:
            words.append(f"of {self.data_of}")
        return ", ".join([" ".join(words), *self._asides()])

    def _asides(self) -> Iterator[str]:
        if self.match:
            kind, variant = self.match
            yield f"{'money' if kind == 'usd' else kind} of {variant}"
        if not self.feedback:
            yield "no feedback"
        if self.prompt != "close":
            yield f"{self.prompt} prompt"
        if self.equal == "steps":
            yield "equal steps"
        yield from (_told(key, value) for key, value in sorted(self.train.items()))

    @property
    def key(self) -> str:
        """Content id."""
        return content_id("arm", self)


def _told(key: str, value: Any) -> str:
    """A key of [train] that a row has for itself, as it stands in the row's label."""
    if key == "mix":
        return ", ".join(f"{100 * m['share']:g} % {m['source']}" for m in value)
    return f"{key} {value}"


class _Source(NamedTuple):
    """What makes two arms' examples come from one collection."""

    student: str
    seed: int
    feedback: bool
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Collection:
    """One run that examples come from."""

    student: str
    """Name of the student that attempts."""
    seed: int
    rounds: int
    """Rounds to collect."""
    feedback: bool
    prompt: Prompt
    promote: Variant
    """The set whose student, trained in a round, attempts in the next."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        told = "" if self.feedback else "-no-feedback"
        prompt = "" if self.prompt == "close" else f"-{self.prompt}"
        return f"{self.student}-seed{self.seed}{told}{prompt}"


@dataclass(frozen=True)
class Grid:
    """An experiment: what is to be run."""

    table: GridTable

    @property
    def dir(self) -> Path:
        return Path(self.table.experiment.dir)

    def student(self, name: str) -> StudentTable:
        """A student as a run's config has it. Raises KeyError for a name that is not there."""
        row = self._students[name]
        plain = row.model_dump(exclude={"name", "train"}, exclude_unset=True)
        return StudentTable.model_validate(plain)

    def train(self, arm: Arm) -> TrainTable:
        """What holds for an arm's training: [train], its student's keys, its own."""
        return self._train(arm.student, arm.train)

    def _train(self, student: str, own: Mapping[str, Any]) -> TrainTable:
        plain = self.table.train.model_dump()
        return TrainTable.model_validate(plain | _given(self._students[student].train) | dict(own))

    @cached_property
    def _students(self) -> Mapping[str, StudentRow]:
        return {row.name: row for row in self.table.student}

    # -- arms -----------------------------------------------------------------------------

    def arms(self) -> list[Arm]:
        """Every arm once, in the paper's order: a student after the other, the untrained one
        first, then the variants and the mixes, seeds of a row side by side."""
        return list(self._arms)

    @cached_property
    def _arms(self) -> tuple[Arm, ...]:
        rows = [*self._base(), *self._product(), *map(self._beside, self.table.arm)]
        rows.sort(key=lambda arm: (len(arm.variants), [VARIANTS.index(v) for v in arm.variants]))
        return tuple(dict.fromkeys(arm for name in self._students for arm in self._of(name, rows)))

    def arms_of(self, row: ArmTable) -> list[Arm]:
        """The arms of a row beside the product."""
        rows = [self._beside(row)]
        return [arm for name in self._students for arm in self._of(name, rows)]

    def _of(self, student: str, rows: Iterable[Arm]) -> Iterator[Arm]:
        """A student's arms: rows that are for every student (named ``""``) or for this one."""
        for row in rows:
            if row.student in ("", student):
                for seed in self.table.experiment.seeds:
                    yield self.merged(replace(row, student=student, seed=seed))

    def _base(self) -> Iterator[Arm]:
        axes = self.table.experiment
        if axes.base:
            for told in axes.feedback:
                yield replace(self.first(), variants=(), feedback=told)

    def first(self) -> Arm:
        """A row of the axes' first values."""
        return next(self._product())

    def _product(self) -> Iterator[Arm]:
        axes = self.table.experiment
        for variant, size, rounds, told, prompt, data_of, equal in itertools.product(
            axes.variants,
            axes.sizes,
            axes.rounds,
            axes.feedback,
            axes.prompts,
            axes.data_of,
            axes.equal,
        ):
            yield Arm(
                student="",
                data_of=data_of,
                seed=0,
                variants=_sets_of(variant),
                size=size,
                rounds=_rounds_of(rounds),
                feedback=told,
                prompt=prompt,
                equal=equal,
            )

    def _beside(self, row: ArmTable) -> Arm:
        arm = replace(
            self.first(),
            student=row.student or "",
            variants=_sets_of(row.variant),
            train=_given(row.train),
        )
        axes = ("data_of", "size", "feedback", "prompt", "equal")
        told = {axis: getattr(row, axis) for axis in axes if getattr(row, axis) is not None}
        if row.rounds:
            told["rounds"] = _rounds_of(row.rounds)
        arm = replace(arm, **told)
        if row.match is None:
            return arm
        match = row.match.given()[0]
        if match[0] == "steps":
            return replace(arm, match=match, equal="epochs")
        return replace(arm, match=match, size=None)

    def merged(self, arm: Arm) -> Arm:
        """The arm, with what makes no difference to it at one value, so that equals are equal.

        What a standard set holds, and what an untrained student does, depends on nobody's
        attempts; whether the student is told matters to both from the second step on. Without
        training, the seed matters to nothing but the samples.
        """
        if arm.data_of == arm.student:
            arm = replace(arm, data_of=OWN)
        if set(arm.variants) <= {"stand"} and arm.match is None:
            axes = self.table.experiment
            told = arm.feedback if self.table.evaluate.steps > 1 else axes.feedback[0]
            prompt = axes.prompts[0]
            arm = replace(arm, data_of=OWN, rounds=(1,), prompt=prompt, feedback=told)
        return arm if arm.variants else self._untrained(arm)

    def _untrained(self, arm: Arm) -> Arm:
        seed = arm.seed if self.table.evaluate.seed is None else self.table.experiment.seeds[0]
        return replace(arm, seed=seed, size=None, equal="epochs", prompt="close")

    def reference(self, arm: Arm) -> Arm | None:
        """The arm that a matched one has as much of something as: that of the named variant on the
        same student, seed and collection, unmatched, all its examples where the grid has it so.
        None: it is not in the grid, or nothing is to be matched."""
        if arm.match is None:
            return None
        sets = _sets_of(arm.match[1])
        found = [o for o in self._arms if o.variants == sets and o.match is None]
        found.sort(key=lambda o: (bool(o.train), o.size != 1.0, o.equal != arm.equal))
        return next((o for o in found if self._is_like(arm, o)), None)

    def _is_like(self, arm: Arm, other: Arm) -> bool:
        """Whether two arms differ in variant, size and training alone."""
        same = ("student", "data_of", "seed", "rounds", "feedback", "prompt")
        return other == self.merged(replace(other, **{key: getattr(arm, key) for key in same}))

    # -- collections ----------------------------------------------------------------------

    def collection(self, arm: Arm) -> Collection | None:
        """The collection that an arm's examples come from; None: an untrained student has none."""
        return self._collections.get(self._source(arm)) if arm.variants else None

    def collections(self) -> list[Collection]:
        """Every collection that an arm needs, in the arms' order, with the rounds they need."""
        return list(self._collections.values())

    @cached_property
    def _collections(self) -> Mapping[_Source, Collection]:
        rounds: dict[_Source, int] = {}
        for arm in self._arms:
            if arm.variants:
                source = self._source(arm)
                rounds[source] = max(rounds.get(source, 1), *arm.rounds)
        promote = self.table.experiment.promoted
        return {
            source: Collection(**source._asdict(), rounds=last, promote=promote)
            for source, last in rounds.items()
        }

    def _source(self, arm: Arm) -> _Source:
        student = arm.student if arm.data_of == OWN else arm.data_of
        return _Source(student, arm.seed, arm.feedback, arm.prompt)

    def config(self, collection: Collection) -> Config:
        """The config of a collection's run, in ``dir/collect/NAME``."""
        table = self.table
        return Config(
            run=RunTable(
                dir=str(self.dir / "collect" / collection.name),
                seed=collection.seed,
                rounds=collection.rounds,
                # the promoted set alone, so that another variant in the grid is no other run
                variants=[collection.promote],
                feedback=collection.feedback,
            ),
            tasks=table.tasks,
            student=self.student(collection.student),
            teacher=[t.model_copy(update={"prompt": collection.prompt}) for t in table.teacher],
            train=self._train(collection.student, {}),
            evaluate=table.evaluate,
            verify=table.verify,
        )


def load_grid(path: str | Path, overrides: Sequence[str] = ()) -> Grid:
    """The grid of a TOML file with ``a.b=value`` overrides laid over it.

    A bare name that is no file is that of a shipped grid: ``main``, ``mixing``. Raises UserError
    naming file and line for a file that cannot be read, an unknown key, a wrong value, and names
    that mean nothing in this grid.
    """
    file, plain = read_toml(_found(path), overrides, USAGE)
    grid = Grid(validated(GridTable, plain, file))
    for check in (_student_faults, _name_faults, _teacher_faults, _match_faults):
        for loc, what in check(grid):
            raise file.fault(loc, what)
    _try_configs(grid, file)
    return grid


#: The grids that come with the package.
SHIPPED = Path(__file__).parent.parent / "configs" / "experiments"


def _found(path: str | Path) -> Path:
    given = Path(path)
    shipped = SHIPPED / f"{given.name.removesuffix('.toml')}.toml"
    is_name = given.parent == Path() and not given.is_file()
    return shipped if is_name and shipped.is_file() else given


# -- what the tables cannot check alone -----------------------------------------------------

#: Where in the file something is wrong, and what.
Fault = tuple[tuple[str | int, ...], str]


def _student_faults(grid: Grid) -> Iterator[Fault]:
    seen: set[str] = set()
    for i, row in enumerate(grid.table.student):
        if row.name in seen:
            yield ("student", i, "name"), f"two students are named {row.name}"
        if row.name == OWN:
            yield ("student", i, "name"), f'"{OWN}" means the student itself in data_of'
        if row.base_url is not None:
            yield (
                ("student", i, "base_url"),
                f"student {row.name} is served and cannot be trained; give a checkpoint's folder "
                "or Hub id",
            )
        if row.model == "recorded" or row.model.startswith(("recorded:", "scripted:")):
            yield (
                ("student", i, "model"),
                f"student {row.name} = {row.model!r} has no weights and cannot be trained",
            )
        if _names_no_folder(row.model):
            yield (
                ("student", i, "model"),
                f"student {row.name}: there is no checkpoint folder {row.model!r}; "
                f"one of the embedded family: {PRETRAIN.format(row.model)}",
            )
        seen.add(row.name)


def _names_no_folder(model: str) -> bool:
    """Whether a model's name is the path of a folder that is not there; others are Hub ids."""
    is_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    return is_path and not Path(model).expanduser().is_dir()


def _name_faults(grid: Grid) -> Iterator[Fault]:
    students = [row.name for row in grid.table.student]
    for loc, name in _names(grid.table):
        known = students if loc[-1] == "student" else [*students, OWN]
        if name is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            yield loc, f"{_dotted(loc)}: no student is named {name!r}; {guess}"


def _names(table: GridTable) -> Iterator[tuple[tuple[str | int, ...], str | None]]:
    """Every place that names a student, with the name."""
    for name in table.experiment.data_of:
        yield ("experiment", "data_of"), name
    for i, row in enumerate(table.arm):
        yield ("arm", i, "data_of"), row.data_of
        yield ("arm", i, "student"), row.student


def _teacher_faults(grid: Grid) -> Iterator[Fault]:
    for i, row in enumerate(grid.table.teacher):
        if "prompt" in row.model_fields_set:
            yield ("teacher", i, "prompt"), "teacher.prompt: experiment.prompts says it here"
    if grid.table.teacher[0].direct == "none":
        sets = {v for arm in grid.arms() for v in arm.variants} - {"persd", "persd-refine"}
        if sets:
            first = min(sets, key=VARIANTS.index)
            what = f'variant {first} needs direct answers, teacher.direct = "none"'
            yield ("teacher", 0, "direct"), what


def _match_faults(grid: Grid) -> Iterator[Fault]:
    for i, row in enumerate(grid.table.arm):
        for arm in grid.arms_of(row):
            if arm.match and grid.reference(arm) is None:
                kind, variant = arm.match
                yield (
                    ("arm", i, "match"),
                    f"arm.match.{kind}: the grid has no {variant} that {arm.name!r} could be "
                    "matched to, with the same student, rounds, feedback, prompt and data_of",
                )


def _try_configs(grid: Grid, file: TomlFile) -> None:
    """Raises UserError where the config of a collection contradicts itself."""
    for collection in grid.collections():
        try:
            grid.config(collection)
        except ValidationError as e:
            message = str(e.errors()[0]["msg"]).removeprefix("Value error, ")
            place = list(grid._students).index(collection.student)
            raise file.fault(("student", place), f"{collection.student}: {message}") from e


# -- words ----------------------------------------------------------------------------------


def _named(variants: Sequence[str]) -> str:
    return "+".join(variants)


def _parts_of_size(size: float | int | None) -> Iterator[str]:
    if isinstance(size, int):
        yield f"on {size}"
    elif size is not None and size < 1:
        yield f"{100 * size:.6g} %"


def _given(table: TrainTable) -> dict[str, Any]:
    """The keys the file gives, not the defaults."""
    return table.model_dump(exclude_unset=True)


def _dotted(loc: Sequence[str | int]) -> str:
    return ".".join(k for k in loc if isinstance(k, str))
