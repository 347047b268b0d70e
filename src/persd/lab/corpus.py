"""What the embedded student is pre-trained on: prompts as the loop renders them.

Most rows are a task and a solution in the student's own loop style; a minority is in the
other two styles, so that a fine-tune towards them is not a language it never saw. A small
share are refinement prompts about a made-up wrong attempt (one step of the chain lost,
exchanged or given another parameter) with the feedback such an attempt earns.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from persd.domains.code import feedback, refine_prompt, task_prompt
from persd.lab import family
from persd.lab.family import Chain, Link, Style
from persd.lab.steps import STEPS
from persd.records import Task, TestResult, Verdict


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the corpus, as fractions of its rows."""

    steps: tuple[float, float, float] = (0.30, 0.58, 0.12)
    """Chains of 1, 2 and 3 steps."""
    chain: float = 0.08
    nested: float = 0.08
    """Rows of 1-2 steps in the other two styles; chains of 3 are in loop style alone."""
    refine: float = 0.05
    """Refinement prompts: about 12 % of the tokens, as they are three times as long."""


def rows(seed: int, mix: Mix) -> Iterator[tuple[str, str]]:
    """Prompt and completion, without end, from the pre-training split alone."""
    rng = random.Random(seed)
    while True:
        length = rng.choices((1, 2, 3), mix.steps)[0]
        chain = family.draw_from(rng, length, "pretrain")
        text = family.instruction(rng, chain)
        if rng.random() < mix.refine:
            row = _refine_row(rng, chain, text)
            if row:
                yield row
        else:
            yield task_prompt(_bare(chain, text)), family.body(chain, _style(rng, length, mix))


def _style(rng: random.Random, length: int, mix: Mix) -> Style:
    draw = rng.random()
    if length == 3 or draw >= mix.chain + mix.nested:
        return "loop"
    return "chain" if draw < mix.chain else "nested"


def _bare(chain: Chain, text: str) -> Task:
    return Task("", text, family.header(chain), family.ENTRY_POINT)


def _refine_row(rng: random.Random, chain: Chain, text: str) -> tuple[str, str] | None:
    wrong = _spoil(rng, chain)
    verdict = _judge(rng, chain, wrong) if wrong else None
    if not wrong or not verdict:
        return None
    attempt = family.program(wrong, "loop")
    prompt = refine_prompt(_bare(chain, text), attempt, feedback(verdict))
    return prompt, family.body(chain, "loop")


def _spoil(rng: random.Random, chain: Chain) -> Chain | None:
    """The chain with one step lost, exchanged for another of its types, or reparametrised."""
    i = rng.randrange(len(chain))
    link = chain[i]
    same = link.step.source == link.step.target
    if same and len(chain) > 1 and rng.random() < 0.25:
        return chain[:i] + chain[i + 1 :]
    peers = [
        s
        for s in STEPS.values()
        if (s.source, s.target) == (link.step.source, link.step.target) and s != link.step
    ]
    if link.params and (not peers or rng.random() < 0.3):
        other = Link(link.step, family.draw_params(rng, link.step))
    elif peers:
        step = rng.choice(peers)
        other = Link(step, family.draw_params(rng, step))
    else:
        return None
    return (*chain[:i], other, *chain[i + 1 :])


def _judge(rng: random.Random, chain: Chain, wrong: Chain) -> Verdict | None:
    """What the judge would say of the wrong chain; None where it cannot tell the two apart."""
    for x in family.draw_inputs(rng, chain[0].step.source):
        expected, actual = repr(family.run(chain, x)), repr(family.run(wrong, x))
        if expected != actual:
            call = f"{family.ENTRY_POINT}({x!r})"
            return Verdict("", "failed", results=(TestResult(call, "failed", expected, actual),))
    return None
