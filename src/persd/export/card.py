"""The card of a data set: what is in it, what is not, whose work it is and what it cost.

The Hub reads the YAML at its head. Every count is one of the report's; nothing in it is a
path, a URL or a key of whoever made the run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from persd import __version__
from persd.benchmarks import place_of, unlike_pool
from persd.config import Config
from persd.errors import UserError
from persd.export.formats import DataSet, format_of
from persd.export.pairs import UNPAIRED
from persd.ledger import Ledger
from persd.pool.difficulty import noted
from persd.records import Kind, Rejected
from persd.report import pool
from persd.report.page import answerers
from persd.report.summary import WORDS, funnels, totals
from persd.report.text import in_code, markdown_table, number, stored_text, usd
from persd.run import stored_config

#: The Hub's word for a licence that nobody named.
UNKNOWN_LICENSE = "unknown"


def license_id(license: str | None) -> str:
    """The Hub's identifier of a licence. Raises UserError for what cannot be one."""
    name = UNKNOWN_LICENSE if license is None else license.strip().lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,63}", name):
        raise UserError(
            f'"{license}" is no identifier of a licence',
            hint="Use one of the Hub's: apache-2.0, mit, cc-by-4.0, ..., or other",
        )
    return name


def card(
    data: DataSet, fmt: str, about: str, *, license: str, sha256: str, file: str | None = None
) -> str:
    """The card in Markdown. ``about``: the run, as ``about_run`` tells it; ``license``: an
    identifier; ``sha256``: of the data file; ``file``: its place in a repository."""
    rows = sum(1 for _ in format_of(fmt).rows(data))
    return CARD.format(
        license=license,
        size=_size(rows),
        configs="" if file is None else CONFIGS.format(file=file),
        variant=data.variant,
        labels=LABELS[data.variant],
        use=format_of(fmt).use,
        counts=markdown_table(("", ""), _counts(data, fmt, rows)),
        left_out=_left_out(data, fmt),
        about=about,
        sha256=sha256,
        version=__version__,
        licence=NO_LICENCE if license == UNKNOWN_LICENSE else f"`{license}`.",
    )


def _size(rows: int) -> str:
    """The Hub's word for a number of rows."""
    limits = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
    return next((word for limit, word in limits if rows < limit), "n>1M")


def _counts(data: DataSet, fmt: str, rows: int) -> list[tuple[str, str]]:
    forms = Counter(e.form for e in data.examples)
    rounds = sorted({e.round for e in data.examples})
    found = [
        ("format", f"`{fmt}`"),
        ("rows", number(rows)),
        ("examples", number(len(data.examples))),
        ("tasks", number(len({e.task_id for e in data.examples}))),
        ("rounds", ", ".join(map(str, rounds)) or "none"),
        ("examples prompted by the task", number(forms["task"])),
        ("examples prompted by task, attempt and feedback", number(forms["refine"])),
    ]
    if format_of(fmt).rejects:
        found.append(("examples with a failed attempt", number(len(data.preferences))))
    return found


def _left_out(data: DataSet, fmt: str) -> str:
    text = "Of the pairs that were selected:\n\n" + _reasons(data.rejected)
    if format_of(fmt).rejects:
        text += "\nOf the examples, as having no failed attempt to reject:\n\n"
        text += _reasons(data.unpaired)
    return text


def _reasons(rejected: Sequence[Rejected]) -> str:
    counts = sorted(Counter(r.reason for r in rejected).items())
    words = {reason: f" ({UNPAIRED[reason]})" for reason, _ in counts if reason in UNPAIRED}
    lines = [f"- {reason}: {number(n)}{words.get(reason, '')}\n" for reason, n in counts]
    return "".join(lines) or "- nothing\n"


# ---- the run ---------------------------------------------------------------------------------


def about_run(ledger: Ledger) -> str:
    """Funnel, provenance, decontamination and money of a run, in Markdown."""
    config = stored_config(ledger)
    found = funnels(ledger)
    states = [s for s in WORDS if any(f.states.get(s) for f in found)]
    rows = [(s, WORDS[s], *(number(f.states.get(s, 0)) for f in found)) for s in states]
    rows.append(("all", "", *(number(f.tasks) for f in found)))
    return ABOUT.format(
        funnel=markdown_table(("state", "meaning", *(f"round {f.round}" for f in found)), rows),
        provenance=markdown_table(("", ""), _provenance(ledger, config)),
        pool=_pool(ledger, config) + _difficulty(ledger),
        decontamination=_decontamination(ledger, config),
        money=markdown_table(("", ""), _money(ledger)),
    )


def _provenance(ledger: Ledger, config: Config) -> list[tuple[str, str]]:
    tasks = config.tasks
    source = f"{number(ledger.count_tasks())} of `{tasks.source}`"
    if tasks.generate is not None:
        source = f"{number(ledger.count_tasks())} written by {_writers(ledger)}"
    if tasks.path is not None:
        source += f" (`{in_code(Path(tasks.path).name)}`)"
    return [
        ("attempts by", _authors(ledger, "attempt")),
        ("direct answers by", _authors(ledger, "direct")),
        ("repairs by", _authors(ledger, "refinement")),
        ("tasks from", source),
        ("seed", str(config.run.seed)),
    ]


def _authors(ledger: Ledger, kind: Kind) -> str:
    """Who wrote the run's programs of a kind, with weights or revision where they are known."""
    sql = (
        "SELECT author FROM solutions WHERE kind = ? AND benchmark = '' "
        "GROUP BY author ORDER BY MIN(round), author"
    )
    found = [stored_text(row["author"]) for row in ledger.query(sql, (kind,))]
    return _named(ledger, "student" if kind == "attempt" else "teacher", found)


def _writers(ledger: Ledger) -> str:
    """Who was asked for tasks."""
    sql = "SELECT DISTINCT model FROM calls WHERE purpose = 'task' ORDER BY model"
    return _named(ledger, "teacher", [stored_text(row["model"]) for row in ledger.query(sql)])


def _named(ledger: Ledger, role: str, names: Sequence[str]) -> str:
    facts = {
        str(one["model"]): dict(one["versions"]) for one in answerers(ledger) if one["role"] == role
    }
    return ", ".join(_author(name, facts.get(name, {})) for name in names) or "nobody"


def _author(name: str, facts: Mapping[str, str]) -> str:
    if name == "reference":
        return "`reference` (the tasks' own programs)"
    known = [f"{k} `{in_code(facts[k])}`" for k in ("revision", "weights") if k in facts]
    shown = name if "endpoint" in facts else _name(name)
    return f"`{in_code(shown)}`" + (f" ({', '.join(known)})" if known else "")


def _name(model: str) -> str:
    """A model's name without the folders it lies in: the name on the Hub has one slash."""
    kind, _, rest = model.partition(":")
    if rest and kind in ("scripted", "recorded"):
        return f"{kind}:{Path(rest).name}"
    is_path = model.startswith(("/", ".", "~")) or model.count("/") > 1 or Path(model).is_dir()
    return Path(model).name or "a folder" if is_path else model


def _pool(ledger: Ledger, config: Config) -> str:
    """How the tasks were written and what they were screened against; empty where they were
    not written for this run."""
    found, rules = pool.funnel(ledger), config.tasks.generate
    if found is None or rules is None:
        return ""
    names = [*rules.against, *(unlike_pool(config) if config.tasks.decontaminate else [])]
    against = ", ".join(f"`{in_code(Path(n).name)}`" for n in dict.fromkeys(names))
    origin = f"tasks of `{in_code(Path(rules.evolve or rules.seeds).name)}`"
    facts = [
        ("written by", _writers(ledger)),
        ("rewritten from" if rules.evolve else "shown as seeds", origin),
        ("screened against", against or "no benchmark"),
        ("questions", number(found.questions)),
        ("replies", number(found.replies)),
        ("proposed tasks", number(found.candidates)),
        ("accepted", number(found.accepted)),
        ("cost", usd(found.paid.usd)),
        ("cost of an accepted task", usd(found.usd_per_accepted) if found.accepted else "none"),
    ]
    rows = [(e.state, pool.WORDS[e.state], number(e.count)) for e in found.endings]
    states = markdown_table(("proposed task", "meaning", "tasks"), rows)
    return POOL.format(facts=markdown_table(("", ""), facts), states=states)


def _difficulty(ledger: Ledger) -> str:
    """How the pool was chosen by the student's pass rates; empty where it was not."""
    found = noted(ledger)
    if found is None or "taken" not in found:
        return ""
    facts = [
        ("pass rates of", f"`{in_code(_name(str(found['student'])))}`"),
        ("samples of a task", number(found["samples"]) if found["samples"] else "as it came"),
        ("choice", f"`{in_code(found['select'])}`"),
        *((words, number(found[key])) for key, words in pool.CHOICE.items()),
    ]
    return DIFFICULTY.format(facts=markdown_table(("", ""), facts))


def _decontamination(ledger: Ledger, config: Config) -> str:
    """What the tasks were held against, as they were written and before they were attempted."""
    rules = config.tasks.generate
    if rules is None or not rules.against:
        return _screened(ledger, config)
    names = ", ".join(f"`{in_code(Path(n).name)}`" for n in rules.against)
    left_out = ledger.count_candidates().get("contaminated", 0)
    return (
        f"Held against {names} as they were written; proposed tasks left out for it: "
        f"{number(left_out)}.\n\nBefore they were attempted: {_screened(ledger, config)}"
    )


def _screened(ledger: Ledger, config: Config) -> str:
    if not config.tasks.decontaminate:
        return "Not screened: the run was told not to (`tasks.decontaminate = false`)."
    table, seed = config.evaluate, config.run.seed
    named = unlike_pool(config)
    held = [n for n in named if ledger.count_tasks(place_of(ledger, n, table, seed))]
    kept_out = ledger.query(
        "SELECT COUNT(DISTINCT task_id) AS n FROM states WHERE state = 'contaminated'"
    )[0]["n"]
    if not held:
        return "Not screened: there was no benchmark to hold the tasks against."
    names = ", ".join(f"`{in_code(Path(n).name)}`" for n in held)
    return (
        f"Held against {names}. Tasks kept out before anybody was asked about them: "
        f"{number(kept_out)}; those that were found later are `contaminated` above. Near-twins "
        "are found by shared words and by alike programs; a task in other words and another "
        "program is not found."
    )


def _money(ledger: Ledger) -> list[tuple[str, str]]:
    paid = totals(ledger)
    return [
        ("paid", paid["usd_text"]),
        ("at risk: tries of which nobody said what they cost", usd(paid["usd_at_risk"])),
        ("of what was paid, led to no verified program", usd(paid["usd_wasted"])),
        ("tasks with a verified repair", number(paid["examples"])),
        ("paid for each of them", usd(paid["usd_per_example"]) if paid["examples"] else "none"),
        ("calls that the teacher, or a served student, answered", number(paid["calls"])),
        ("input tokens", number(paid["input_tokens"])),
        ("output tokens", number(paid["output_tokens"])),
    ]


# ---- Markdown --------------------------------------------------------------------------------


LABELS = {
    "stand": "t -> c, all tasks with a verified direct answer",
    "inpd": "t -> c, tasks the student failed",
    "inpd-refine": "T(t, a, f) -> c, tasks the student failed",
    "inpd-combined": "t -> c and T(t, a, f) -> c, tasks the student failed",
    "persd": "t -> r, tasks the student failed",
    "persd-refine": "T(t, a, f) -> r, tasks the student failed",
    "persd-combined": "T(t, a, f) -> r and t -> c, tasks the student failed",
    "replay": "t -> a, tasks the student solved",
}

CONFIGS = """configs:
- config_name: default
  data_files:
  - split: train
    path: {file}
"""

CARD = """---
license: {license}
language:
- code
- en
task_categories:
- text-generation
tags:
- persd
- personalised-distillation
- code-generation
size_categories:
- {size}
{configs}---

# Training data: {variant}

Personalised distillation (Chen, Saha, Hoi, Joty, EMNLP 2023), `{variant}`: {labels}.
t is the task, a the student's attempt, f its execution feedback, c the teacher's direct
answer, r the teacher's repair of the attempt.

{use}

{counts}
Every completion was aligned with its task's header, and task prompt + completion was executed
against the task's tests before it was kept (untested tasks, where included, were not). Nothing
was cut.

## Left out

{left_out}
{about}
## Made by

persd {version}. SHA-256 of the data file: `{sha256}`.

## Licence

{licence} Who wrote the answers is named above: the terms of a teacher's provider may restrict
training on what it writes. The tasks have a licence of their own.
"""

NO_LICENCE = "Unknown: nobody has named one."

POOL = """## The tasks

{facts}
A proposed task came with a program and calls; what the calls give was found by running the program
in a sandbox, in different conditions. Where every one of them ended:

{states}
"""

DIFFICULTY = """## Chosen by difficulty

{facts}
"""

ABOUT = """## The run

{funnel}
{provenance}
{pool}## Decontamination

{decontamination}

## What it cost

{money}"""
