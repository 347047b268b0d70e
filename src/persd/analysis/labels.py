"""How close labels are to the student: to its own attempts, and to its own likelihoods."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from persd.analysis.means import ratio, ratio_interval
from persd.build import build_rounds, rounds_of
from persd.closeness import similarity
from persd.config import Config
from persd.errors import UserError
from persd.ledger import Ledger
from persd.models import checkpoint_of
from persd.models.scoring import LabelScore, label_scores
from persd.progress import Progress
from persd.records import Example
from persd.run import limits_of
from persd.sandbox import Sandbox

if TYPE_CHECKING:
    from persd.models.local import LocalModel

NO_LIKELIHOOD = "gives no likelihood of a label: name a checkpoint that is like it"

_similarity = lru_cache(maxsize=2**14)(similarity)  # variants share most of their labels


@dataclass(frozen=True, slots=True)
class Label:
    """What one example teaches, beside what the student had written."""

    task_id: str
    program: str
    """The task's header and the label."""
    attempt: str | None
    """The student's own program; None: it wrote none."""
    score: LabelScore | None = None
    """None: no student was asked."""


def label_closeness(variant: str, labels: Sequence[Label]) -> dict[str, Any]:
    """How close a variant's labels are to the student: to its attempts and to its likelihoods.

    ``similarity`` (0-1, of ``persd.closeness``): of a label's program to the attempt at the
    same task, the mean over tasks of the mean over a task's examples. ``nats_per_token``: all
    nats of the labels over all their tokens, end tokens included; its interval is the
    bootstrap of the ratio over tasks, linearised. StanD's labels include those of tasks the
    student solved, the others' do not: compare labels between the sets drawn from F.

    None: it is not known of any example. ``left_out``: examples by why a figure is without
    them (``no_attempt``: no program to compare; ``over_long``, ``lossy``: see ``LabelScore``).
    """
    near: dict[str, list[float]] = defaultdict(list)
    cost: dict[str, list[LabelScore]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for label in labels:
        if label.attempt is None:
            left_out["no_attempt"] += 1
        else:
            near[label.task_id].append(_similarity(label.attempt, label.program))
        if label.score is not None and label.score.reason:
            left_out[label.score.reason] += 1
        elif label.score is not None:
            cost[label.task_id].append(label.score)
    means = [sum(found) / len(found) for found in near.values()]
    tokens = [sum(s.tokens for s in found) for found in cost.values()]
    nats = [sum(s.nats or 0.0 for s in found) for found in cost.values()]
    return {
        "variant": variant,
        "examples": len(labels),
        "tasks": len({label.task_id for label in labels}),
        "similarity": ratio(means),
        "similarity_interval": ratio_interval(means),
        "tokens": sum(tokens) if tokens else None,
        "nats_per_token": ratio(nats, tokens),
        "nats_interval": ratio_interval(nats, tokens),
        "left_out": dict(sorted(left_out.items())),
    }


def examples_of(
    ledger: Ledger,
    box: Sandbox,
    config: Config,
    variants: Sequence[str],
    untested: bool,
    progress: Progress,
) -> dict[str, list[Example]]:
    """The examples of every variant after the latest round, as they would be trained on."""
    rounds, limits = _rounds(ledger, config), limits_of(config)
    found = {}
    for variant in variants:
        progress.stage(f"build {variant}, examples", None)
        found[variant], _ = build_rounds(
            ledger,
            lambda: box,
            variant,
            rounds,
            untested=untested,
            limits=limits,
            progress=progress,
        )
        progress.close()
    return found


def labels_of(
    ledger: Ledger,
    config: Config,
    sets: Mapping[str, Sequence[Example]],
    model: str | None,
    progress: Progress,
) -> dict[str, Any]:
    """The section ``labels`` of ``analyze``; ``sets``: the examples by variant."""
    student, note = _student(config, model)
    scores = _scores(student, sets, progress) if student else {}
    label = _labeller(ledger, scores)
    rows = []
    progress.stage("compare labels with attempts, variants", len(sets))
    for variant, examples in sets.items():
        rows.append(label_closeness(variant, [label(e) for e in examples]))
        progress.step(1)
    progress.close()
    return {
        "student": student.name if student else None,
        "note": note,
        "rounds": list(_rounds(ledger, config)),
        "variants": rows,
    }


def _labeller(
    ledger: Ledger, scores: Mapping[tuple[str, str], LabelScore]
) -> Callable[[Example], Label]:
    """What an example teaches, beside the attempt its task ended with in that round."""
    headers = {task.task_id: task.header for task in ledger.tasks()}
    attempts = {s.solution_id: s.code for s in ledger.solutions(benchmark="", kind="attempt")}
    return lambda e: Label(
        e.task_id,
        headers[e.task_id] + e.completion,
        attempts.get(e.attempt_id or ""),
        scores.get((e.prompt, e.completion)),
    )


def _rounds(ledger: Ledger, config: Config) -> range:
    """The rounds whose examples are trained on after the latest."""
    return rounds_of(config, max(ledger.rounds(), default=0))


def _scores(
    student: LocalModel, sets: Mapping[str, Sequence[Example]], progress: Progress
) -> dict[tuple[str, str], LabelScore]:
    """The score of every pair; what several variants hold is scored once."""
    pairs = dict.fromkeys((e.prompt, e.completion) for found in sets.values() for e in found)
    progress.stage("score labels under the student", len(pairs))
    found = {}
    try:
        for pair, score in zip(pairs, label_scores(student, pairs), strict=True):
            found[pair] = score
            progress.step(1, **({score.reason: 1} if score.reason else {}))
    finally:
        student.close()
    progress.close()
    return found


def _student(config: Config, model: str | None) -> tuple[LocalModel | None, str]:
    """The student whose likelihoods are asked for; or None and why there are none."""
    spec = config.student
    if model is None:
        if spec.base_url is not None:
            return None, f"a served student {NO_LIKELIHOOD}"
        if spec.model.partition(":")[0] in ("recorded", "scripted"):
            return None, f"a recorded student {NO_LIKELIHOOD}"
    from persd.models.local import LocalModel

    asked = model or spec.model
    name = "lab" if asked == "lab" else None
    try:
        student = LocalModel(
            checkpoint_of(asked),
            api=spec.form,
            revision=spec.revision if model is None else None,
            trust_remote_code=spec.trust_remote_code,
            name=name,
        )
        return student, ""
    except UserError as e:
        if model is not None:
            raise
        return None, str(e)
