"""``persd build``: a variant of a run as a file that other trainers read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from persd.build import build_rounds, task_records
from persd.errors import UserError
from persd.examples import REPLAY, parts_of
from persd.export import export, publish
from persd.export.card import about_run, license_id
from persd.export.formats import DataSet, Format, format_of
from persd.export.pairs import pair
from persd.export.push import check_push
from persd.files import refuse_target
from persd.ledger import Ledger
from persd.progress import Progress
from persd.records import Rejected
from persd.run import limits_of, stored_config
from persd.sandbox import Sandbox


def build_run(
    run_dir: Path,
    variant: str,
    fmt: str,
    out: Path,
    round: int | None,
    untested: bool,
    progress: Progress,
    *,
    license: str | None = None,
    repo: str | None = None,
    private: bool = False,
    unsafe: bool = False,
) -> dict[str, Any]:
    """``persd build``: write a variant's data set, and push it where ``repo`` names a place.

    Gives examples, rejected by reason, and path; with failed attempts to reject also pairs and
    unpaired by reason, which add up to the examples; the repository's URL as pushed.
    ``unsafe`` is asked for anew, whatever the run's config says: a run may be somebody else's.
    """
    parts_of(variant)
    form = format_of(fmt)
    license_id(license)
    refuse_target(out, "the data set")
    if repo is not None:
        check_push(repo)
    elif private:
        raise UserError("--private is for what is pushed", hint="--push OWNER/NAME")
    with Ledger(run_dir, create=False) as ledger:
        chosen = _rounds(ledger, round, run_dir)
        with Sandbox(unsafe=unsafe) as box:
            data = _data_set(ledger, box, variant, chosen, untested, form, progress)
        if form.rejects and not data.preferences:
            raise _no_pair(data, run_dir)
        about = about_run(ledger)
    export(data, fmt, out, about=about, license=license)
    found = {
        "examples": len(data.examples),
        "rejected": _reasons(data.rejected),
        "path": str(out),
    }
    if form.rejects:
        found |= {"pairs": len(data.preferences), "unpaired": _reasons(data.unpaired)}
    if repo is not None:
        found["pushed"] = publish(
            data, fmt, out, repo, about=about, license=license, private=private
        )
    return found


def _rounds(ledger: Ledger, round: int | None, run_dir: Path) -> list[int]:
    """The rounds to build of: the one asked for, else the last. Raises UserError for none."""
    rounds = ledger.rounds()
    if not rounds or (round is not None and round not in rounds):
        raise UserError(
            f"the run holds rounds {rounds}, not {round}" if rounds else "nothing is collected",
            where=str(run_dir),
            hint="persd collect CONFIG.toml",
        )
    return [round] if round is not None else rounds[-1:]


def _data_set(
    ledger: Ledger,
    box: Sandbox,
    variant: str,
    rounds: Sequence[int],
    untested: bool,
    form: Format,
    progress: Progress,
) -> DataSet:
    """The variant over the rounds, with the attempts that the format holds."""
    limits = limits_of(stored_config(ledger))

    def built(selection: str, *, untested: bool = False) -> DataSet:
        progress.stage(f"build {selection}, examples", None)
        examples, rejected = build_rounds(
            ledger,
            lambda: box,
            selection,
            rounds,
            untested=untested,
            limits=limits,
            progress=progress,
        )
        progress.step(0, left_out=len(rejected))
        progress.close()
        return DataSet(selection, examples, rejected)

    data = built(variant, untested=untested)
    if not form.rejects:
        return data
    records = [r for round in rounds for r in task_records(ledger, round)]
    progress.stage("pair them with failed attempts", len(data.examples))
    pairs, alone = pair(data.examples, records, box, limits=limits, progress=progress)
    progress.step(0, left_out=len(alone))
    progress.close()
    by_task = any(prompted == "task" for _, prompted, _ in parts_of(variant))
    replay = built(REPLAY).examples if form.replays and by_task else ()
    return DataSet(variant, data.examples, data.rejected, pairs, alone, replay)


def _no_pair(data: DataSet, run_dir: Path) -> UserError:
    reasons = ", ".join(f"{n} {reason}" for reason, n in _reasons(data.unpaired).items())
    return UserError(
        f"{data.variant} has no failed attempt to reject: "
        + (f"of {len(data.examples)} examples {reasons}" if reasons else "it has no example"),
        where=str(run_dir),
        hint="Use --variant persd, or another --format; persd report RUN tells of the attempts",
    )


def _reasons(rejected: Sequence[Rejected]) -> dict[str, int]:
    return dict(sorted(Counter(r.reason for r in rejected).items()))
