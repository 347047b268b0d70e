"""The config of a run: one short TOML, every key checked before anything is done.

Unknown keys are refused with the nearest known one; a fault is named with its line. A key
belongs to the stage it first influences: ``changed_keys`` and ``stage_of`` say what may
change without contradicting what a run has already stored.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from persd.errors import UserError
from persd.money import BATCH_SHARE
from persd.records import VARIANTS, Role, Variant

M = TypeVar("M", bound=BaseModel)

Api = Literal["chat", "completions"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PriceTable(_Table):
    """USD per million tokens; overrides the price list."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)
    batch: float = Field(default=BATCH_SHARE, ge=0, le=1)
    """Share of it that a call in a batch costs."""


class RunTable(_Table):
    """The run itself."""

    dir: str = Field(min_length=1)
    """Folder of the run: its ledger, checkpoints and report."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    rounds: int = Field(default=1, ge=1, le=1000)
    variants: list[Variant] = Field(default=["persd-combined"], min_length=1)
    promote: Variant | None = None
    """Variant whose student attempts in the next round; None: the last one listed."""
    examples: Literal["union", "last"] = "union"
    """Train on the examples of all rounds, or of the last one only."""
    feedback: bool = True
    """Teacher and student are told what the judge said of an attempt; false: the ablation, in
    which they see the attempt alone."""
    start: Literal["original", "last"] = "original"
    """Train the original weights, or go on from the variant's last checkpoint."""

    @property
    def promoted(self) -> Variant:
        return self.promote or self.variants[-1]


Way = Literal["deeper", "constraint", "input", "misdirection"]
"""How a task is rewritten (Evol-Instruct: Xu et al. 2023; for code: Luo et al. 2023): more steps
of reasoning, one more requirement, another type of input, or wrong code as misdirection."""
WAYS: tuple[Way, ...] = get_args(Way)


#: Least and most; TOML and JSON have lists for it.
Pair = Annotated[tuple[int, int], Field(strict=False)]


class GenerateTable(_Table):
    """Tasks written by a teacher (self-instruct: Wang et al. 2022; PERsD, section 4.1)."""

    count: int = Field(ge=1, le=10**7)
    """Tasks wanted: asked for until so many are accepted, the money is spent, or nothing comes."""
    seeds: str = Field(default="mbpp", min_length=1)
    """Where the examples come from: ``mbpp`` (its 374 training tasks), another source, or a task
    file."""
    path: str | None = None
    """Local file of a source of ``seeds``; None: the Hub."""
    evolve: str | None = Field(default=None, min_length=1)
    """Rewrite tasks in place of writing new ones: those that the student of a run (its folder)
    failed, or those of a task file by their pass rates (``persd tasks difficulty``)."""
    ways: list[Way] = Field(default=list(WAYS), min_length=1)
    """The ways of rewriting that take turns."""
    author: int = Field(default=0, ge=0)
    """Which of the teachers writes, from 0."""
    shots: int = Field(default=3, ge=1, le=20)
    """Seeds shown with a question."""
    per_call: int = Field(default=2, ge=1, le=20)
    """Tasks wanted of one reply."""
    topics: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=1)
    """What tasks are about, in turn; None: a list of some forty (``pool.steer``)."""
    difficulties: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, min_length=1
    )
    """How hard they are to be, in turn; None: four grades."""
    calls: int = Field(default=8, ge=2, le=100)
    """Calls wanted for a task."""
    seen: int = Field(default=3, ge=0, le=20)
    """Tests that may be shown; the others are hidden."""
    least_tests: int = Field(default=3, ge=1, le=100)
    """Hidden tests that a task must have."""
    mutants: int = Field(default=6, ge=0, le=100)
    """Changed copies of the reference that its tests are tried on, at most."""
    kills: float = Field(default=0.5, ge=0, le=1)
    """Share of them that the hidden tests must notice."""
    words: Pair = (4, 400)
    """Least and most words of an instruction."""
    lines: Pair = (1, 80)
    """Least and most lines of a reference, beside its header."""
    language: bool = True
    """Refuse instructions that are not English prose."""
    against: list[Annotated[str, Field(min_length=1)]] = []
    """Benchmarks whose tasks are kept out, beside those of [evaluate]."""
    data: dict[str, str] = {}
    """Local file of a benchmark of ``against``, by its name."""
    temperature: float = Field(default=0.8, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=3000, ge=1)
    """Of a reply."""

    @model_validator(mode="after")
    def _in_order(self) -> GenerateTable:
        for name in ("words", "lines"):
            least, most = getattr(self, name)
            if not 0 <= least <= most:
                raise ValueError(f"{name} = [{least}, {most}]: the least, then the most")
        if self.calls < self.seen + self.least_tests:
            raise ValueError(
                f"calls = {self.calls} are fewer than seen = {self.seen} and "
                f"least_tests = {self.least_tests} together"
            )
        return self


class DifficultyTable(_Table):
    """How hard each task is for the student, measured before the pool is chosen."""

    samples: int = Field(default=0, ge=0, le=1000)
    """Attempts at each task, as the student's table says; 0: not measured, but pass rates that
    the tasks bring along (``persd tasks difficulty``) still order them where ``select`` says so."""
    select: Literal["none", "learnable"] = "learnable"
    """``learnable``: tasks solved now and then come first, those never solved after them, those
    always solved are left out; ``tasks.limit`` takes the first of these. ``none``: their order."""


class TasksTable(_Table):
    """Where tasks come from."""

    source: Literal[
        "humaneval",
        "humaneval+",
        "mbpp",
        "mbpp+",
        "mbpp-sanitized",
        "persdistill",
        "lab",
        "jsonl",
        "generate",
    ]
    path: str | None = None
    """A local file (jsonl, humaneval, mbpp) or folder (persdistill); None: the Hub."""
    style: Literal["chain", "loop", "nested"] | None = None
    """Style of the reference programs that lab makes; None: chain."""
    mix: dict[str, float] | None = None
    """Of lab: the share of tasks of so many steps; None: 40/40/20 % of 2/3/4."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Tasks to take; None: all (lab: 300)."""
    decontaminate: bool = True
    """Keep near-twins of the tasks of [evaluate] benchmarks out of the pool (``screen``)."""
    generate: GenerateTable | None = None
    """Of source ``generate``: how the tasks are written."""
    difficulty: DifficultyTable | None = None
    """Choose the pool by the student's pass rates; None: take the tasks as they come."""

    @model_validator(mode="after")
    def _says_how(self) -> TasksTable:
        if (self.source == "generate") != (self.generate is not None):
            raise ValueError('tasks.source = "generate" and a table [tasks.generate] go together')
        return self


class Endpoint(_Table):
    """A model: a Hub id or folder, ``lab`` (embedded), ``scripted:FILE``, ``recorded:RUN``,
    or any name a server at ``base_url`` (default: OpenAI's) answers to."""

    model: str = Field(min_length=1)
    base_url: str | None = None
    api: Api | None = None
    """None: chat for a served model, completions for a loaded one."""
    api_key_env: str = "OPENAI_API_KEY"
    mode: Literal["live", "batch"] = "live"
    """``batch``: a served model is asked through its Batch API: half the price, within a day."""
    price: PriceTable | None = None
    budget_usd: float | None = Field(default=None, ge=0)
    """Hard cap over all runs of this config; None: no cap."""
    max_in_flight: int = Field(default=16, ge=1, le=1024)
    """Calls under way at most; fewer while the endpoint turns calls away."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """In and out together. None: what the endpoint bears, found by asking."""
    timeout: float = Field(default=300.0, gt=0, le=86400)
    """Seconds an endpoint may be silent within one call."""
    temperature: float = Field(default=0.3, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1)
    batch: int = Field(default=64, ge=1)
    """Rows a loaded model generates together."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of them, prompt and ``max_tokens`` of every row with padding; None: as many as a
    GPU's memory holds, any number on a CPU."""
    engine: Literal["own", "continuous"] = "own"
    """What samples a loaded model: this package, or transformers' continuous batching, in which
    the next row takes the place of one that has ended. Both draw the same samples."""

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a bracket or a port that is none
            sound = False
        if not sound:
            raise ValueError("is no URL: it must start with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "holds more than scheme, host, port and path; a key goes into the environment "
                "variable that api_key_env names"
            )
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("must be the name of an environment variable, never the key itself")
        return value


def is_served(spec: Endpoint, role: Role) -> bool:
    """Whether a configured model answers over HTTP rather than in this process.

    A teacher is served (by OpenAI where no base_url is given) unless it is embedded,
    scripted, recorded or a folder; a student is loaded unless it has a base_url.
    """
    if spec.base_url is not None:
        return True
    embedded = spec.model in ("lab", "recorded") or spec.model.startswith(
        ("scripted:", "recorded:")
    )
    return role == "teacher" and not embedded and not Path(spec.model).is_dir()


class StudentTable(Endpoint):
    """The model that learns. PERsD section 4.1 samples attempts at 0.3, top-p 0.95."""

    revision: str | None = None
    """Branch, tag or commit of a Hub repository; None: its main branch."""
    trust_remote_code: bool = False
    """Run the Python code of a checkpoint's repository, outside the sandbox."""

    @property
    def form(self) -> Api:
        """How it is asked, and so trained: ``api``, or what is usual for where it runs."""
        return self.api or ("chat" if self.base_url else "completions")


class TeacherTable(Endpoint):
    """A model that repairs."""

    max_tokens: int = Field(default=1024, ge=1)
    max_tries: int = Field(default=2, ge=1, le=10)
    """Tries of one repair; a failed one goes back with its own feedback. (A reply that holds no
    code is asked for afresh, four times at most, and is no try.)"""
    stay_close: float | None = Field(default=None, ge=0, le=1)
    """Ask once more for a repair that passes but is less similar to the attempt than this, and
    keep the closer one; None: take what passes."""
    prompt: Literal["close", "free", "blind"] = "close"
    """``close``: it is shown its own direct answer and told to stay close to the attempt;
    ``free``: not told to stay close; ``blind``: not shown its own answer."""
    direct: Literal["reference", "ask", "none"] = "reference"
    """Where the direct answer comes from: the task's reference (asked for where it has
    none), always asked for, or nowhere."""


class LoraTable(_Table):
    """Low-rank adapters (Hu et al. 2021), for ``method`` lora and qlora."""

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32, gt=0)
    """The adapter counts alpha / rank times."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[Annotated[str, Field(min_length=1)]] = "all-linear"
    """Modules that get an adapter, by the end of their names; all but the head."""


class StageTable(_Table):
    """A part of a training that takes only rows up to a length."""

    length: int = Field(ge=8)
    """Tokens of prompt and completion."""
    share: float = Field(gt=0, le=1)
    """Of the optimizer steps; those of all stages add up to 1."""


class MixTable(_Table):
    """Rows from elsewhere, beside the variant's own."""

    source: str = Field(min_length=1)
    """A variant, ``replay`` (the student's own attempts that passed), or a file of JSON lines
    with ``prompt`` and ``completion``."""
    share: float = Field(gt=0, lt=1)
    """Of all that is trained on."""


#: Configurations for several processes that are shipped (configs/accelerate).
LAUNCHES = ("ddp", "fsdp", "zero2", "zero3", "zero3-offload", "cpu2")


class TrainTable(_Table):
    """Fine-tuning. The defaults suit a small model; configs/paper.toml has the paper's."""

    method: Literal["full", "lora", "qlora"] = "full"
    """All weights, low-rank adapters, or adapters over weights held in 4 bits (bitsandbytes)."""
    epochs: float = Field(default=3, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps in place of ``epochs``; None: as the epochs give."""
    lr: float = Field(default=2e-5, gt=0)
    """Peak learning rate."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per optimizer step, over all processes."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Rows per forward pass of one process; None: 16 on a GPU, 4 on a CPU, or what divides its
    share of the batch. It changes time and memory, not the gradients."""
    max_length: int = Field(default=2048, ge=8)
    """Tokens of prompt and completion; a longer row is never cut."""
    over_long: Literal["refuse", "skip"] = "refuse"
    """A longer row stops the training, or is left out and counted."""
    lossy: Literal["refuse", "skip"] = "refuse"
    """The same for a row that the tokenizer does not give back as it was."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.05, ge=0, le=1)
    """Fraction of the steps in which the rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are scaled down to it; 0: never."""
    optimizer: Literal["adamw", "adamw_8bit", "adafactor"] = "adamw"
    """8 and 4 + 4 bytes of state a trained weight, about 2 (bitsandbytes), next to none."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Order of the rows, and dropout where the model has any; None: as run.seed."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: float32 weights, computed in bfloat16 on a GPU that has it; ``bfloat16``:
    weights as well, in half the memory."""
    gradient_checkpointing: bool = False
    """Less memory for about a third more time."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3"] = "auto"
    """The attention kernel; ``auto``: flash attention where it is installed and the GPU has it."""
    packing: Literal["auto", "on", "off"] = "auto"
    """The rows of a pass end to end, without padding and without seeing each other; ``auto``:
    with flash attention, the one kernel with which it pays."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of the tasks that are not trained on; their loss is looked at every epoch, and the
    weights of the lowest are kept."""
    patience: int = Field(default=2, ge=1)
    """Looks without a lower loss after which the training stops."""
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    """How often the training is put down, to go on there should it be killed."""
    merge: bool = True
    """Adapters are merged into the weights (and kept beside them); false: adapters alone."""
    report_to: list[Literal["trackio", "wandb", "tensorboard"]] = []
    """Trackers that are told of every step beside the ledger."""
    launch: str | None = Field(default=None, min_length=1)
    """Train in several processes: ``ddp``, ``fsdp``, ``zero2``, ``zero3``, ``zero3-offload`` (a
    process a GPU), ``cpu2``, or a configuration file of ``accelerate launch``; None: in this
    one, or those that ``accelerate launch`` has started. The batches are the same."""
    lora: LoraTable = LoraTable()
    stages: list[StageTable] = []
    """Lengths in the order they are trained on; empty: all rows together."""
    mix: list[MixTable] = []
    mix_by: Literal["rows", "tokens"] = "rows"
    """What the shares of ``mix`` count."""

    @model_validator(mode="after")
    def _adds_up(self) -> TrainTable:
        if self.stages and abs(sum(s.share for s in self.stages) - 1) > 1e-6:
            raise ValueError(
                f"the shares of train.stages add up to {sum(s.share for s in self.stages):g}, not 1"
            )
        if self.launch and self.launch not in LAUNCHES and not Path(self.launch).suffix:
            raise ValueError(
                f"train.launch = {self.launch!r} is none of {', '.join(LAUNCHES)}, nor a file"
            )
        if sum(m.share for m in self.mix) >= 1:
            raise ValueError("the shares of train.mix leave nothing for the variant itself")
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(
                f"train.micro_batch = {self.micro_batch} does not divide "
                f"train.batch_size = {self.batch_size}"
            )
        return self

    def but(self, **changes: Any) -> TrainTable:
        """These settings with some changed. Raises pydantic's ValidationError."""
        return TrainTable.model_validate(self.model_dump() | changes)


def seeded(table: TrainTable, seed: int) -> TrainTable:
    """The [train] table with the seed that holds where it names none."""
    return table if table.seed is not None else table.but(seed=seed)


class EvaluateTable(_Table):
    """Scoring on held-out tasks."""

    benchmarks: list[Annotated[str, Field(min_length=1)]] = []
    """humaneval, mbpp, lab, or a task file; empty: no evaluation."""
    data: dict[str, str] = {}
    """Local file of a benchmark, by its name."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Tasks of each benchmark; None: all (lab: 300)."""
    samples: int = Field(default=20, ge=1)
    k: list[int] = Field(default=[1, 5, 10, 20], min_length=1)
    steps: int = Field(default=1, ge=1)
    """Steps of multi-step inference."""
    temperature: float = Field(default=0.2, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Which samples are drawn (and, of lab, which tasks); None: as run.seed."""
    mix: dict[str, float] | None = None
    """Of lab: the share of tasks of so many steps; None: 20/60/20 % of 2/3/4."""

    @model_validator(mode="after")
    def _enough_samples(self) -> EvaluateTable:
        if min(self.k) < 1:
            raise ValueError(f"k = {min(self.k)}: k starts at 1")
        if max(self.k) > self.samples:
            raise ValueError(
                f"pass@{max(self.k)} needs at least {max(self.k)} samples, samples = {self.samples}"
            )
        return self


class VerifyTable(_Table):
    """The judge."""

    workers: int | None = Field(default=None, ge=1, le=256)
    """Processes; None: one a core."""
    timeout: float | None = Field(default=None, gt=0, le=3600)
    """CPU seconds a test; None: by the task's reference (``calibrate``), 3 without one."""
    memory_mb: int | None = Field(default=None, ge=32, le=1 << 20)
    """Memory of a program; None: 512."""
    unsafe: bool = False
    """Run programs also where nothing keeps them from the user's files."""


class Config(_Table):
    """A whole run."""

    run: RunTable
    tasks: TasksTable
    student: StudentTable
    teacher: list[TeacherTable] = Field(min_length=1)
    train: TrainTable = TrainTable()
    evaluate: EvaluateTable = EvaluateTable()
    verify: VerifyTable = VerifyTable()

    @field_validator("teacher", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if any(t.prompt == "free" and t.stay_close is not None for t in self.teacher):
            raise ValueError('teacher.prompt = "free" contradicts teacher.stay_close')
        needs = [v for v in self.run.variants if v not in ("persd", "persd-refine")]
        if needs and self.teacher[0].direct == "none":
            raise ValueError(f'variant {needs[0]} needs direct answers, teacher.direct = "none"')
        written = self.tasks.generate
        if written is not None and written.author >= len(self.teacher):
            raise ValueError(
                f"tasks.generate.author = {written.author}, of {len(self.teacher)} teachers "
                "(the first is 0)"
            )
        if self.run.promote and self.run.promote not in self.run.variants:
            raise ValueError(f"run.promote = {self.run.promote!r} is not among run.variants")
        asked: list[tuple[Role, Endpoint]] = [("student", self.student)]
        for role, spec in [*asked, *(("teacher", t) for t in self.teacher)]:
            if spec.mode == "batch" and not is_served(spec, role):
                raise ValueError(
                    f'{role}.mode = "batch" is for a model with a Batch API, '
                    f"{spec.model} is not served"
                )
        if self.student.base_url and self.run.rounds > 1:
            raise ValueError("a served student cannot be trained, so run.rounds must be 1")
        return self


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a TOML file with ``a.b=value`` overrides laid over it.

    Raises UserError naming file and line for a file that cannot be read, broken TOML, an
    unknown key or a wrong value.
    """
    file, plain = read_toml(path, overrides, "persd run CONFIG.toml")
    return validated(Config, plain, file)


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A TOML file that was read, for naming the lines of its faults."""

    path: Path
    text: str
    overrides: Sequence[str]
    """``a.b=value`` laid over it."""
    usage: str
    """The command that reads such a file, and a name for the file."""

    def fault(self, loc: Sequence[str | int], what: str) -> UserError:
        """The error that says ``what`` of the key at ``loc``: ("teacher", 1, "model")."""
        name = ".".join(k for k in loc if isinstance(k, str))
        given = [key for o in self.overrides if (key := o.partition("=")[0].strip()) == name]
        line = _line_of(self.text, loc)
        where = f"{self.path}:{line}" if line else str(self.path)
        return UserError(what, where=f"--set {given[-1]}" if given else where, hint=self.hint)

    @property
    def hint(self) -> str:
        """What to do about a fault."""
        return f"mend it, then: {_command_on(self.usage, self.path)}"


def _command_on(usage: str, path: Path) -> str:
    return f"{usage.rpartition(' ')[0]} {path}"


def read_toml(
    path: str | Path, overrides: Sequence[str], usage: str
) -> tuple[TomlFile, dict[str, Any]]:
    """A TOML file and its plain content with the overrides laid over it.

    Raises UserError for a file that cannot be read, broken TOML and an override that is none.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise UserError(
            f"cannot read the config: {reason}",
            where=str(path),
            hint=f"{usage}; README.md shows a short one",
        ) from e
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise _toml_error(e, path, text, usage) from e
    for override in overrides:
        _override(plain, override)
    return TomlFile(path, text, overrides, usage), plain


def validated(model: type[M], plain: dict[str, Any], file: TomlFile) -> M:
    """The content of a file as a model's tables; a wrong key is a UserError with its line."""
    try:
        return model.model_validate(plain)
    except ValidationError as e:
        # an unknown key explains a missing one beside it, so it is told first
        faults = sorted(e.errors(), key=lambda f: f["type"] != "extra_forbidden")
        raise file.fault(faults[0]["loc"], _fault_text(faults[0], model)) from e


def from_flags(model: type[M], given: Mapping[str, Any], command: str) -> M:
    """A table of what a command was given. Raises UserError naming the flag at fault."""
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        fault = error.errors()[0]
        flag = "-".join(p for p in fault["loc"] if isinstance(p, str)).replace("_", "-")
        said = str(fault["msg"]).removeprefix("Value error, ")
        told = f"--{flag}: {said}" if flag else said
        raise UserError(told, hint=f"{command} --help says what it takes") from None


def given_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """``key=value`` overrides as plain content. Raises UserError for what is none."""
    plain: dict[str, Any] = {}
    for override in overrides:
        _override(plain, override)
    return plain


def _fault_text(fault: Any, model: type[BaseModel]) -> str:
    keys = [str(k) for k in fault["loc"] if isinstance(k, str)]
    name = ".".join(keys)
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, keys[:-1])
        near = difflib.get_close_matches(keys[-1], known, n=1)
        guess = f"; did you mean {near[0]}?" if near else f" (known: {', '.join(known)})"
        return f"unknown key {name}{guess}"
    if fault["type"] == "missing":
        return f"{name} is missing"
    value = fault.get("input")
    secret = keys[-1:] in (["api_key_env"], ["base_url"])  # a key may have got in there
    plain = not isinstance(value, dict | list | BaseModel)
    shown = f" = {value!r}" if plain and not secret else ""
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = "must be a table"
    if keys[-1:] == ["variants"] and isinstance(value, str):
        message = f"unknown variant; known: {', '.join(VARIANTS)}"
    return f"{name}{shown}: {message}" if name else message


def _known_keys(model: type[BaseModel], tables: list[str]) -> list[str]:
    for table in tables:
        field = model.model_fields.get(table)
        if field is None:
            return []
        options = [field.annotation, *get_args(field.annotation)]
        found = [t for t in options if isinstance(t, type) and issubclass(t, BaseModel)]
        if not found:
            return []
        model = found[0]
    return list(model.model_fields)


def _line_of(text: str, loc: Sequence[str | int]) -> int | None:
    """1-based line of a key in TOML text; that of its table where the key is absent.

    A number after the first name says which of the ``[[tables]]`` of that name is meant.
    """
    keys = [k for k in loc if isinstance(k, str)]
    entry = loc[1] if len(loc) > 1 and isinstance(loc[1], int) else None
    table, best = "", None
    entries = 0  # [[tables]] of the first name so far
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*(\[{1,2})\s*([^\]]+?)\s*\]{1,2}", line)
        if header:
            table = header[2].replace(" ", "").replace('"', "")
            entries += header[1] == "[[" and [table] == keys[:1]
        if entry is not None and entries and entries != entry + 1:
            continue
        if header and [table] == keys[:1] and best is None:
            best = number
        key = re.match(r"\s*([\w.\"-]+)\s*=", line)
        here = [k for k in table.split(".") if k] if not header else []
        if key and keys and here + key[1].replace('"', "").split(".") == keys[: len(here) + 1]:
            return number
    return best


def _toml_error(error: tomllib.TOMLDecodeError, path: Path, text: str, usage: str) -> UserError:
    found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
    line = int(found[1]) if found else len(text.splitlines())
    what = re.sub(r"\s*\(at [^)]*\)", "", str(error))
    lines = text.splitlines()
    shown = f": {lines[line - 1].strip()!r}" if 0 < line <= len(lines) else ""
    return UserError(
        f"not TOML: {what}{shown}",
        where=f"{path}:{line}",
        hint=f"mend the line, then: {_command_on(usage, path)}",
    )


def _override(plain: dict[str, Any], override: str) -> None:
    name, eq, value = override.partition("=")
    keys = [k.strip() for k in name.split(".")]
    if not eq or not all(keys):
        raise UserError(f"--set {override!r} is not a.b=value", where="command line")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    place: Any = plain
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if isinstance(place, list) and place:
            place = place[0]
        if not isinstance(place, dict):
            raise UserError(f"--set {override!r}: {key} is not a table", where="command line")
    place[keys[-1]] = parsed


# -- what may change when a run goes on -----------------------------------------------------

#: The stage a key first influences. Keys not named here belong to their table's stage.
STAGES = ("tasks", "student", "teacher", "verify", "train", "evaluate", "free")
_FREE = (
    "budget_usd",
    "max_in_flight",
    "price",
    "api_key_env",
    "requests_per_minute",
    "tokens_per_minute",
    "timeout",
    "mode",
)
_STAGE_OF_KEY = {
    "run.dir": "free",
    "run.rounds": "free",
    "run.seed": "student",
    "run.variants": "train",
    "run.promote": "train",
    "run.examples": "train",
    "run.start": "train",
    "run.feedback": "teacher",
    "train.launch": "free",
    "train.report_to": "free",
    "train.checkpoint_minutes": "free",
    "tasks.path": "free",  # the tasks' contents are compared, not where they lie
    "tasks.generate.path": "free",
    "verify.workers": "free",
    "verify.unsafe": "free",  # every verdict names the isolation it was made under
}


def stage_of(key: str) -> str:
    """The stage a dotted key first influences, one of ``STAGES``."""
    if key in _STAGE_OF_KEY:
        return _STAGE_OF_KEY[key]
    table, name = key.split(".")[0], key.split(".")[-1]
    if table in ("student", "teacher") and any(part in _FREE for part in key.split(".")):
        return "free"
    if key.startswith("tasks.generate.data."):
        return "free"  # where a benchmark lies
    if name == "direct" and table == "teacher":
        return "student"  # direct answers decide which tasks are attempted at all
    return table


def asks_more(changed: Mapping[str, tuple[Any, Any]]) -> set[str]:
    """Those of the changed keys (old, new) that only add to what a run has asked: more tries,
    or another teacher at the end of the cascade."""
    appended = tuple(
        key.removesuffix("model")
        for key, (old, _) in changed.items()
        if re.fullmatch(r"teacher\.\d+\.model", key) and old is None
    )

    def is_more(key: str, old: Any, new: Any) -> bool:
        if key.startswith(appended):
            return True
        more_tries = re.fullmatch(r"teacher\.\d+\.max_tries", key)
        return bool(more_tries and old is not None and new is not None and new > old)

    return {key for key, values in changed.items() if is_more(key, *values)}


def flatten(config: Config) -> dict[str, Any]:
    """Every key of a config with its value, dotted: ``teacher.0.model``."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for k, v in value.items():
                yield from walk(f"{prefix}.{k}" if prefix else k, v)
        elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
            for i, v in enumerate(value):
                yield from walk(f"{prefix}.{i}", v)
        else:
            yield prefix, value

    return dict(walk("", config.model_dump(mode="json")))


def retrained(config: Config, overrides: Sequence[str]) -> Config:
    """A run's config with ``train.a=value`` overrides. Raises UserError for other keys."""
    plain = config.model_dump(mode="json")
    file = TomlFile(Path("train.KEY=VALUE"), "", overrides, "persd train RUN ... --set X")
    for override in overrides:
        if not override.strip().startswith("train."):
            raise UserError(
                f"--set {override!r} is no key of [train]",
                where="command line",
                hint="What was collected follows from the rest; give --set train.lr=1e-4, say.",
            )
        _override(plain, override)
    return validated(Config, plain, file)


def changed_keys(old: str, new: Config) -> dict[str, tuple[Any, Any]]:
    """Keys whose value differs from a stored config (``to_json``): {key: (old, new)}.

    A key one of the two does not know takes the default there, so that a newer version's
    new keys are no change.
    """
    before = flatten(Config.model_validate(json.loads(old)))
    after = flatten(new)
    keys = [*after, *(k for k in before if k not in after)]
    return {k: (before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)}


def to_json(config: Config) -> str:
    """The config as stored in a ledger."""
    return json.dumps(config.model_dump(mode="json"), sort_keys=True)
