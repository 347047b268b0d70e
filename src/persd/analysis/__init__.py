"""Why a variant teaches what it does: how its labels lie to the student, and what it mends.

Everything is counted from a run's ledger; only the labels' likelihood asks a model, the
student itself. Means are over tasks, and so are their 95 % bootstrap intervals: they say how
a figure would vary with other tasks of the kind, not with another training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from persd.analysis.attempts import training_mistakes
from persd.analysis.clean import overlap_of
from persd.analysis.evaluated import evaluated_mistakes
from persd.analysis.labels import examples_of, labels_of
from persd.ledger import Ledger
from persd.progress import QUIET, Progress
from persd.records import VARIANTS
from persd.run import stored_config
from persd.sandbox import Sandbox


def analyze(
    run_dir: Path,
    *,
    variants: Sequence[str] | None = None,
    model: str | None = None,
    untested: bool = False,
    unsafe: bool = False,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """``persd analyze``: labels, mistakes, attempts and overlap of a run, as plain JSON.

    ``variants``: those whose labels are looked at; None: all seven. ``model``: a checkpoint in
    place of the run's own student, under which labels are scored. ``untested``: tasks without
    a test too. ``unsafe`` as for ``build_run``. The ledger is only read: a run may be going on.

    ``labels``: ``student`` (None: no likelihoods), ``note`` (why), ``rounds``, ``variants``
    (``label_closeness`` each); ``mistakes``: ``mistakes`` each, with ``benchmark``, ``model``,
    ``round``; ``attempts``: ``training_mistakes``, a round each; ``overlap``: ``overlap_of``.
    Raises UserError where there is no run, for an unknown variant and for a ``model`` that
    cannot be loaded.
    """
    with Ledger(run_dir, read_only=True) as ledger:
        config = stored_config(ledger)
        with Sandbox(unsafe=unsafe) as box:
            sets = examples_of(ledger, box, config, variants or VARIANTS, untested, progress)
        return {
            "labels": labels_of(ledger, config, sets, model, progress),
            "mistakes": evaluated_mistakes(ledger, progress),
            "attempts": [training_mistakes(ledger, round) for round in ledger.rounds()],
            "overlap": overlap_of(ledger, config, progress),
        }
