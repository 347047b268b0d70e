"""Who answers: one protocol for students and teachers, local, served, recorded or embedded.

A model turns a batch of requests into as many completions. It knows nothing of ledgers,
budgets or retries of a run: ``persd.calls`` puts those around every model alike.
A model is plugged in by module name: ``open_model`` imports the one that is asked for,
so that ``torch`` or ``openai`` is loaded only by those who use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from persd.config import Endpoint, StudentTable, is_served
from persd.errors import UserError
from persd.records import Completion, Outcome, Request, Role, Task

if TYPE_CHECKING:
    from persd.models.checkpoint import Source
    from persd.sandbox import Sandbox
    from persd.throttle import Throttle

#: The embedded student's checkpoint.
EMBEDDED_STUDENT = Path(__file__).parent.parent / "lab" / "student"


class ModelUnavailable(Exception):
    """The model has no answer to this question, and would have none if it were asked again."""


class TryAgain(Exception):
    """A call that failed as it may not the next time. ``persd.calls`` decides whether and when."""

    def __init__(
        self,
        kind: Outcome,
        detail: str,
        *,
        wait: float | None = None,
        billed: bool = False,
        reply: Completion | None = None,
        mend: UserError | None = None,
    ) -> None:
        """``wait``: seconds the endpoint asked for. ``billed``: it may have been computed and
        so be billed. ``reply``: what came back, where it was whole. ``mend``: what to tell the
        user should it never succeed."""
        super().__init__(detail)
        self.kind, self.wait, self.billed, self.reply, self.mend = kind, wait, billed, reply, mend


class Model(Protocol):
    """Completes many prompts. Implementations: local, openai_chat, scripted, recorded, repair."""

    @property
    def name(self) -> str:
        """What the ledger and the tables call it."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """All that changes its answers beside the request: model, revision, weights, endpoint.

        Enters the key under which an answer is stored, so it must hold no secret.
        """
        ...

    @property
    def batch(self) -> int:
        """How many requests it likes together; 1: each alone."""
        ...

    @property
    def in_flight(self) -> int:
        """How many batches may be under way at once, each in a thread of its own."""
        ...

    @property
    def throttle(self) -> Throttle | None:
        """The limiter of its endpoint, which every call passes; None: it runs in this process,
        costs nothing and is not tried again."""
        ...

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in their order; at most ``batch`` requests.

        Raises TryAgain where the next try may succeed, ModelUnavailable where there is no
        answer, UserError where only the user can mend it (a wrong key, an unknown model).
        """
        ...

    def close(self) -> None:
        """Give back memory, sockets and processes. Safe to call twice."""
        ...


def open_model(
    spec: Endpoint,
    role: Role,
    *,
    box: Callable[[], Sandbox],
    tasks: Callable[[], list[Task]],
    answered: bool = False,
    throttles: Throttles | None = None,
) -> Model:
    """The model a config names; the module that speaks to it is imported here and not before.

    ``box`` gives the sandbox an embedded teacher searches in, ``tasks`` the run's tasks, which
    carry the replies of the paper's release; ``answered`` says that this model has answered
    this run before, so that a refusal is about a prompt and not the settings; ``throttles``
    holds the limiters of a run, which its models share. Raises UserError for a missing key or
    checkpoint.
    """
    kind, _, rest = spec.model.partition(":")
    if is_served(spec, role):
        from persd.models.openai_batch import BatchModel
        from persd.models.openai_chat import OpenAIModel

        served = (BatchModel if spec.mode == "batch" else OpenAIModel)(
            spec.model,
            base_url=spec.base_url,
            api=spec.api or "chat",
            api_key_env=spec.api_key_env,
            timeout=spec.timeout,
            answered=answered,
        )
        served.check()
        served.throttle = throttle_for(spec, {} if throttles is None else throttles)
        return served
    if kind == "scripted" and rest:
        from persd.models import scripted

        return scripted.from_file(rest)
    if kind == "recorded":
        from persd.models import recorded

        return recorded.from_ledger(rest, role) if rest else recorded.from_release(tasks(), role)
    if spec.model == "lab" and role == "teacher":
        from persd.models.repair import RepairTeacher

        return RepairTeacher(box=box(), rewrites=getattr(spec, "prompt", "") == "free")
    from persd.models.local import LocalModel

    return LocalModel(
        checkpoint_of(spec.model),
        api=spec.api or "completions",
        batch=spec.batch,
        batch_tokens=spec.batch_tokens,
        engine=spec.engine,
        revision=getattr(spec, "revision", None),
        trust_remote_code=getattr(spec, "trust_remote_code", False),
        name="lab" if spec.model == "lab" else None,
    )


#: Limiters by endpoint, model and the variable that names the key.
Throttles = dict[tuple[str | None, str, str], "Throttle"]


def throttle_for(spec: Endpoint, throttles: Throttles) -> Throttle:
    """The limiter of an endpoint: one for all who ask the same model with the same key.

    Where they were given different limits, the first one's hold.
    """
    from persd.throttle import Throttle

    key = (spec.base_url, spec.model, spec.api_key_env)
    if key not in throttles:
        throttles[key] = Throttle(
            spec.max_in_flight, spec.requests_per_minute, spec.tokens_per_minute
        )
    return throttles[key]


def source_of(student: StudentTable) -> Source:
    """The checkpoint of a student that is loaded here. Raises UserError where it is not there."""
    from persd.models.checkpoint import find

    return find(
        checkpoint_of(student.model),
        revision=student.revision,
        trust_remote_code=student.trust_remote_code,
    )


def checkpoint_of(model: str) -> str:
    """The folder or Hub id behind a model's name in a config."""
    return str(EMBEDDED_STUDENT) if model == "lab" else model
