"""The records every stage handles: frozen, serialisable, imported by everything.

This module imports nothing of ours. A stage is a function from record to record; the
ledger stores them; ids are derived from content, so that doing a thing twice gives the
same id and a resumed run recognises what it already has.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Role = Literal["student", "teacher"]
Kind = Literal["attempt", "direct", "refinement"]
Status = Literal[
    "passed",  # every test gave the expected value
    "failed",  # a wrong value
    "error",  # an exception left the program
    "timeout",  # CPU limit, or the wall-clock backstop for sleeps and deadlocks
    "memory",
    "crashed",  # a signal, or the process left early
    "syntax",  # does not compile, or cannot be encoded
    "not_run",  # our trouble: retried, never shown to the teacher, never the student's failure
]
Variant = Literal[
    "stand", "inpd", "inpd-refine", "inpd-combined", "persd", "persd-refine", "persd-combined"
]
State = Literal[
    "solved",  # the student's attempt passed: nothing to teach (input personalisation)
    "refined",  # a verified repair: the task is in F
    "refused",  # the teacher's repair did not pass the tests
    "teacher_failed",  # no code in the teacher's reply, or it gave up
    "direct_failed",  # the direct answer does not pass, so the task is not in the pool D
    "contaminated",  # a near-twin of a benchmark's task: training on it would spoil the score
    "bad_task",  # the task's own reference fails its own tests
    "too_long",  # the prompt does not fit the student's context; never cut to fit
    "not_attempted",  # the served student does not take the question, or refuses to answer it
    "untested",  # no test to judge by; exported only when asked for
    "over_budget",  # the cap was reached before the teacher could be asked
    "unavailable",  # the model's endpoint did not answer: asked again by the next run
    "not_run",  # the judge could not run it: judged again by the next run
]

VARIANTS: tuple[str, ...] = get_args(Variant)
STATUSES: tuple[str, ...] = get_args(Status)
STATES: tuple[str, ...] = get_args(State)
#: States the next run takes up again; the others end the task for its round.
OPEN_STATES: frozenset[str] = frozenset({"over_budget", "unavailable", "not_run"})


@dataclass(frozen=True, slots=True)
class Test:
    """One check of one call of the entry point."""

    __test__ = False  # not a pytest class

    call: str
    """Python source of one call of the entry point with literal arguments: ``f([1, 2])``."""
    expected: str
    """Python literal the call must return; plain text where ``compare`` is ``"loose"``."""
    compare: Literal["value", "equal", "loose"] = "value"
    """``value``: equal value of the same type. ``equal``: Python's ``==`` on plain data, as the
    assertions of HumanEval and MBPP mean it (1 == 1.0). ``loose``: the literal, ``str(value)`` or
    stripped stdout equals ``expected`` (how the paper's release wrote expectations down)."""
    tolerance: float | None = None
    """Absolute and relative tolerance for floats; None: exact."""


@dataclass(frozen=True, slots=True)
class Task:
    """Something the student tries and a judge can check."""

    task_id: str
    instruction: str
    """What to write, in words; empty where the header carries it (HumanEval's docstring)."""
    header: str
    """Source the completion continues: imports, ``def`` line(s), perhaps a docstring."""
    entry_point: str
    tests: tuple[Test, ...] = ()
    """The tests that decide (the paper's u). Never shown, except one failure as feedback."""
    seen_tests: tuple[Test, ...] = ()
    """Tests anybody may see: in the prompt, for step 2 feedback, for the embedded teacher."""
    test_code: str | None = None
    """Source defining ``check(candidate)``, for tests that are not ``f(args) == literal``."""
    reference: str | None = None
    """A program known to be right, whole (defines the entry point), or None."""
    setup: str = ""
    """Source that runs before the program (imports and helpers its tests or header rely on)."""
    domain: str = "code"
    source: str = ""
    """Where the task was read, ``file:line``; empty for generated tasks."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Facts of its source: JSON values only, never needed to judge it."""

    @property
    def tested(self) -> bool:
        return bool(self.tests) or self.test_code is not None


@dataclass(frozen=True, slots=True)
class Solution:
    """One program somebody wrote for one task."""

    solution_id: str
    task_id: str
    kind: Kind
    author: str
    """The model's name, or ``reference``."""
    round: int
    """1, 2, ...; 0 for what no round owns: direct answers and evaluation samples."""
    text: str
    """The raw reply, whole."""
    code: str | None
    """The program as judged, whole; None: the reply holds no code."""
    step: int = 1
    """Step of multi-step inference the solution belongs to (1 = written from the task)."""
    sample: int = 0
    """Index among the samples drawn for the same prompt."""
    attempt: int = 1
    """Which try of the teacher this is (1 = first)."""
    parent: str | None = None
    """Solution this one repairs; None: written from the task alone."""
    call_id: str | None = None
    """The call that produced the text; None: read from a file (a task's reference)."""
    finish: str = "stop"
    """Why the model stopped: ``stop``, ``length`` (the reply is cut), ``filtered``, ..."""
    note: str = ""
    """What the author says of it: the embedded teacher's ``edit: ...``, ``rewrote: ...``."""
    benchmark: str = ""
    """Benchmark the sample was drawn for; empty: a task of the training pool."""
    closeness: float | None = None
    """Similarity to the attempt it repairs, 0-1 (``persd.closeness``); None: it repairs none."""


@dataclass(frozen=True, slots=True)
class TestResult:
    """What one test did. Texts are shortened for reading, never used to judge."""

    __test__ = False

    call: str
    status: Literal["passed", "failed", "error", "not_reached"]
    expected: str = ""
    actual: str = ""
    """Python literal of the value returned; a description where it is not plain data."""
    error_type: str = ""
    message: str = ""
    line: int | None = None
    """1-based line of the program where the exception left it; None: unknown."""
    stdout: str = ""
    """Tail of what the call printed."""
    cpu_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judge's answer on one solution."""

    solution_id: str
    status: Status
    tests: Literal["hidden", "seen"] = "hidden"
    reason: str = ""
    """What is finer than the status: a signal, early exit, denied call, missing entry point."""
    results: tuple[TestResult, ...] = ()
    """In the order of the tests, up to the first the program did not survive."""
    seconds: float = 0.0
    """CPU seconds of the program."""
    isolation: str = ""
    """The isolation it ran under, as ``persd doctor`` names it."""
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def first_failure(self) -> TestResult | None:
        return next((r for r in self.results if r.status in ("failed", "error")), None)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the provider counts them; cached is part of input."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    known: bool = True
    """False: the endpoint did not say; the counts are then 0 and the cost is unknown."""


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


def plain_text(messages: Sequence[Message]) -> str:
    """A chat as a plain-completion model is given it: its turns, one after the other."""
    return "\n\n".join(m.content for m in messages)


Purpose = Literal[
    "attempt",
    "direct",
    "refinement",
    "task",  # write new tasks, from seeds or around a task (``Request.brief``)
    "calls",  # more calls for a task whose tests are too weak
]


@dataclass(frozen=True, slots=True)
class Brief:
    """What a question for tasks asks for: the structure behind its text."""

    number: int
    """Which question it is, from 0; what it asks follows from it and the seed alone."""
    count: int
    """Tasks wanted of one reply."""
    calls: int
    """Calls wanted for each."""
    shown: tuple[Task, ...] = ()
    """Seeds shown as examples."""
    topic: str = ""
    difficulty: str = ""
    way: str = ""
    """How a task is to be rewritten (``config.Way``); empty: a new one."""
    parent: Task | None = None
    """The task that is rewritten, or (purpose ``calls``) that wants more calls."""
    wrong: str | None = None
    """A program that is wrong for the parent: a student's attempt, or one that passes its tests."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one model, and the structure behind its text."""

    purpose: Purpose
    messages: tuple[Message, ...]
    """A chat; a plain completion is the one user message, taken as the prompt."""
    task: Task
    seed: int
    temperature: float
    top_p: float
    max_tokens: int
    parent: Solution | None = None
    """The attempt to be repaired (refinement only)."""
    verdict: Verdict | None = None
    """What the judge said of the parent (refinement only)."""
    earlier: tuple[tuple[Solution, Verdict], ...] = ()
    """This teacher's earlier tries of the same repair, each with its verdict."""
    benchmark: str = ""
    round: int = 1
    step: int = 1
    sample: int = 0
    attempt: int = 1
    """Which try it is, over all teachers of a cascade."""
    own_attempt: int = 0
    """Which of this teacher's own tries it is, from 1; 0: ``attempt`` says it."""
    brief: Brief | None = None
    """What tasks are asked for (purposes ``task`` and ``calls`` only)."""

    @property
    def prompt(self) -> str:
        """The text a plain-completion model continues: a chat's turns, one after the other."""
        return plain_text(self.messages)


CandidateState = Literal[
    "accepted",
    # the reply
    "no_task",  # a reply, or a part of it, that holds no task that can be read
    "cut",  # the reply ended within the task
    # its form
    "syntax",  # the reference does not compile
    "no_function",  # it defines no function that the calls call, or one that cannot be a task
    "instruction_size",  # too few words, or too many
    "reference_size",
    "language",  # the instruction is not English prose
    "bad_calls",  # too few calls of the entry point with arguments that are plain data
    # what the reference does when it is run
    "reference_fails",  # it raises, or does not define what it should
    "too_slow",  # it runs into the limits
    "not_plain",  # what it returns is no plain data
    "silent",  # it returns None and prints nothing
    "mutates_input",
    "non_deterministic",  # random numbers, the order of hashes, addresses
    "time_dependent",  # it reads the clock, or gives other values at another time
    "file_dependent",  # it uses files, the environment, input, processes or the network
    # whether its tests can tell right from wrong
    "constant",  # all tests expect the same
    "stub_passes",  # a function that does nothing, or gives back its argument, passes
    "weak_tests",  # too few changed copies of the reference fail, more calls or not
    # whether it is new
    "near_duplicate",  # of a seed, or of a task accepted before
    "contaminated",  # of a benchmark's task
    "not_run",  # the sandbox could not run it: screened again by the next run
]
CANDIDATE_STATES: tuple[str, ...] = get_args(CandidateState)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A task as it stands in a reply."""

    instruction: str
    code: str
    """The reference, whole; as told, perhaps no program at all."""
    calls: tuple[str, ...] = ()
    """Source of one call each; as told."""
    entry_point: str = ""
    """Function that the reply says is called; empty: it does not say."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposed task, and what the screening made of it."""

    candidate_id: str
    call_id: str
    """The call whose reply proposed it."""
    number: int
    """The question's (``Brief.number``)."""
    place: int
    """In its reply, from 0."""
    state: CandidateState
    detail: str
    """Why, with the value or the match, for reading."""
    proposal: Proposal
    task: Task | None = None
    """The task it became; None: it was rejected."""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    """``origin`` ("seeds" or "evolved"), ``seeds`` shown (ids), ``topic``, ``difficulty``, ``way``,
    ``parent`` (id), ``model``, ``prompt`` (a hash of its messages), ``call`` (id), ``usd``: its
    share of what the call cost, or None."""
    position: int = 0
    """The order in which candidates were decided."""
    asked_again: bool = False
    """More calls were asked for."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered."""

    text: str
    finish: str = "stop"
    usage: Usage = field(default_factory=Usage)
    usd: float | None = 0.0
    """None: unknown (no price for the model); never taken for 0."""
    model: str = ""
    """The model as the endpoint names it; empty: the one that was asked."""
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A question and its answer, as the ledger keeps them: durable before it is used."""

    call_id: str
    role: Role
    model: str
    purpose: str
    task_id: str
    round: int
    messages: tuple[Message, ...]
    params: Mapping[str, Any]
    """temperature, top_p, max_tokens, seed."""
    completion: Completion
    versions: Mapping[str, str] = field(default_factory=dict)
    """What the answer depends on beside the question: model identity, package versions."""


Outcome = Literal[
    "in_flight",  # sent, and nothing came back yet
    "lost",  # was in flight when its process died
    "batched",  # in a batch at the provider, or answered there and not used yet
    "rate_limited",  # turned away for now: 429
    "refused",  # turned away for good: a wrong key, an unknown model
    "server_error",  # 5xx
    "timeout",  # no answer in time
    "connection",  # never reached, or broken off within the reply
    "malformed",  # a reply that is not the protocol's
    "unusable",  # a whole reply that holds no answer (empty, another model's); asked again
]


@dataclass(frozen=True, slots=True)
class Try:
    """One sending of a question that gave no answer, or none yet. An answered one is a Call."""

    call_id: str
    sent: float
    """Unix time; with ``call_id`` the key."""
    role: Role
    model: str
    purpose: str
    task_id: str
    round: int
    usd_at_most: float | None
    """What was held back for it; None: the price is not known."""
    usage: Usage
    """``known=False``: the most it can have been."""
    outcome: Outcome = "in_flight"
    usd: float | None = None
    """What it cost (0.0: nothing); None: nobody said, so up to ``usd_at_most``."""
    text: str = ""
    """The reply, whole, where one came back."""
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Questions sent together, to be answered within a day; known before the provider knows it."""

    key: str
    """Its rows and when they were sent; the provider keeps it, so that the batch is found again."""
    role: Role
    model: str
    endpoint: str
    created: float
    """Unix time."""
    rows: int
    batch_id: str | None = None
    """The provider's name for it; None: it may not have been created."""
    state: Literal["open", "collected"] = "open"


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A question in a batch; what was sent is the Try of this ``call_id`` and ``sent``."""

    call_id: str
    batch: str
    """The batch's key."""
    sent: float
    result: str | None = None
    """The provider's whole JSON line, until it has been used; None: none came, or it was used."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """How one task ended one round, and by which solutions."""

    task_id: str
    round: int
    state: State
    detail: str = ""
    attempt_id: str | None = None
    refinement_id: str | None = None
    direct_id: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One training pair, with its lineage."""

    example_id: str
    variant: str
    task_id: str
    round: int
    prompt: str
    completion: str
    """Exactly what follows the prompt; prompt + completion was executed before it was kept."""
    form: Literal["task", "refine"]
    """``task``: prompted by the task alone; ``refine``: by task, attempt and feedback."""
    attempt_id: str | None = None
    refinement_id: str | None = None
    direct_id: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A pair that was selected but left out, and why."""

    variant: str
    task_id: str
    round: int
    form: Literal["task", "refine"]
    reason: str
    """``unparsable``, ``undefined_names``, ``signature``, ``no_direct``, ``contaminated``, or the
    judge's status; of an example without a failed attempt one of ``export.pairs.UNPAIRED``."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained student on disk."""

    checkpoint_id: str
    path: str
    base: str
    variant: str
    round: int
    examples: int
    data_hash: str
    """Content hash of base weights, examples and settings: what makes it this checkpoint."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    """steps, epochs, first_loss, last_loss, seconds, tokens."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step of a training, or a look at the held-out rows after it."""

    step: int
    """From 1 on."""
    steps: int
    """Of the whole training."""
    loss: float
    """Nats per label token, mean over the step's rows."""
    lr: float
    """Rate of the step."""
    grad_norm: float | None = None
    """Norm of the gradient before it was clipped; None: not told."""
    tokens: int = 0
    """Read so far, without padding, over all processes."""
    seconds: float = 0.0
    """Since this process began to train."""
    held_out: float | None = None
    """Nats per label token on the held-out rows, after this step; None: not looked at."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of one model on one benchmark at one step. All scores are fractions 0-1."""

    evaluation_id: str
    model: str
    """``base``, or the variant."""
    round: int
    """Round of the checkpoint; 0 for the base model."""
    benchmark: str
    step: int
    tasks: int
    samples: int
    pass_at_k: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]
    """95 % bootstrap interval over tasks, by k."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Samples by verdict status; ``truncated``: cut by length within the program, and not
    passing, which is no verdict on the model."""
    seconds: float = 0.0
    checkpoint_id: str | None = None
    control: Literal["", "resample"] = ""
    """``resample``: beside this step, as many calls spent on new samples of the task alone."""
    calls: int = 0
    """Replies asked for at this step."""
    outcomes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By task_id, samples by outcome: ``passed``, the type of the first error as the feedback
    names it, ``no code``; and, part of no score, ``truncated`` (cut within the program, and not
    passing) and ``not_run``."""


R = TypeVar("R")


def to_json(record: Any) -> str:
    """One record as compact JSON with sorted keys: the same record, the same text."""
    is_record = dataclasses.is_dataclass(record) and not isinstance(record, type)
    plain = dataclasses.asdict(record) if is_record else record
    return json.dumps(plain, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def from_json(cls: type[R], text: str | bytes) -> R:
    """The record ``to_json`` wrote. Raises ValueError naming the field on anything else."""
    return from_plain(cls, json.loads(text))


def from_plain(cls: type[R], plain: Any) -> R:
    """The record of a plain dict (what ``dataclasses.asdict`` gives, lists for tuples).

    Written out rather than left to pydantic because replies may hold lone surrogates, which
    pydantic refuses and a ledger must keep. Raises ValueError naming the field.
    """
    return _decode(cls, plain, cls.__name__)  # type: ignore[no-any-return]


def _decode(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _decode_record(hint, value, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        return tuple(_decode(k, v, where) for k, v in zip(kinds, value, strict=True))
    if origin is Mapping and isinstance(value, dict):
        return {k: _decode(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is UnionType:
        if value is None and NoneType in args:
            return None
        return _decode(next(a for a in args if a is not NoneType), value, where)
    if origin is Literal and value in args:
        return value
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint is Any or type(value) is hint:
        return value
    raise ValueError(f"{where}: {value!r} is not a {getattr(hint, '__name__', hint)}")


def _decode_record(cls: Any, value: Any, where: str) -> Any:
    hints = _hints(cls)
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {value!r} is not an object")
    if unknown := value.keys() - hints.keys():
        raise ValueError(f"{where}: unknown field {min(unknown)!r}")
    fields = {k: _decode(hints[k], v, f"{where}.{k}") for k, v in value.items()}
    try:
        return cls(**fields)
    except TypeError as e:
        raise ValueError(f"{where}: {e}") from None


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls)


def content_id(*parts: Any) -> str:
    """A 16-hex-digit id derived from content (SHA-256 of the parts' canonical JSON)."""
    digest = hashlib.sha256("\x1f".join(to_json(p) for p in parts).encode())
    return digest.hexdigest()[:16]


def content_of(task: Task) -> str:
    """What a task is, wherever it was read."""
    return content_id(dataclasses.replace(task, source=""))


def derive_seed(*parts: Any) -> int:
    """A 31-bit seed from content: the same run, task, round and sample, the same seed."""
    return int(content_id("seed", *parts), 16) & 0x7FFF_FFFF
