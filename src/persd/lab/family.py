"""Chains of steps: drawn, worded, rendered as programs and turned into tasks with tests.

A chain of 1-4 steps is one function of one argument. Its *signature* is the names of its
steps without their parameters; the splits share no signature, so a held-out task is never
a pool task with another number in it. The CRC-32 of the signature decides the split: it
does not depend on a seed, a count or the order of drawing.
"""

from __future__ import annotations

import ast
import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

from persd.lab.steps import STEPS, Step
from persd.records import Task, Test, content_id, derive_seed

Split = Literal["pretrain", "pool", "heldout", "validation"]
Style = Literal["loop", "chain", "nested"]

PRETRAIN_SHARE = {1: 100, 2: 50, 3: 20, 4: 0}
"""Percent of the signatures of each length that pre-training may draw from."""
PARAMETER = {"L": "xs", "W": "words", "S": "s", "I": "n"}
ENTRY_POINT = "f"
SEEN_TESTS, HIDDEN_TESTS = 4, 12
_LOOP_NAMES, _CHAIN_NAMES = "abcd", "pqr"
_PARAMS: dict[str, str] = {"k": "2345", "c": "abcde", "d": "abcde", "s": "-_+/"}
_STARTS = "LLLLWWWSSSI"
_WORDINGS = ("plain", "first", "given", "semicolon")
_EDGES: dict[str, list[Any]] = {"L": [[], [3]], "W": [[], ["a"]], "S": ["", "b"], "I": [0, 7]}
_NOUN = {"L": "a list of numbers", "W": "a list of words", "S": "a text", "I": "a number"}


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain with its parameters chosen."""

    step: Step
    params: Mapping[str, str]

    def fill(self, template: str, **names: str) -> str:
        return template.format(**self.params, **names)


Chain = tuple[Link, ...]


# ---- drawing ----------------------------------------------------------------------------------


def signature(chain: Chain) -> str:
    return ">".join(link.step.name for link in chain)


def split_of(sig: str) -> Split:
    """The one split a signature belongs to."""
    if zlib.crc32(sig.encode()) % 100 < PRETRAIN_SHARE[sig.count(">") + 1]:
        return "pretrain"
    bucket = zlib.crc32(f"split:{sig}".encode()) % 10
    return "pool" if bucket < 5 else "heldout" if bucket < 8 else "validation"


@cache
def _steps_from(source: str) -> tuple[Step, ...]:
    return tuple(s for s in STEPS.values() if s.source == source)


def draw_chain(rng: random.Random, length: int) -> Chain:
    """A random chain of ``length`` steps, each fed by the one before."""
    links: list[Link] = []
    kind = rng.choice(_STARTS)
    while len(links) < length:
        if kind == "I" and links:  # a number ends most chains: arithmetic alone is dull
            links, kind = ([], rng.choice(_STARTS)) if rng.random() < 0.7 else (links, kind)
        step = rng.choice(_steps_from(kind))
        links.append(Link(step, draw_params(rng, step)))
        kind = step.target
    return tuple(links)


def draw_params(rng: random.Random, step: Step) -> dict[str, str]:
    params = {name: rng.choice(_PARAMS[name]) for name in step.params}
    while "d" in params and params["d"] == params["c"]:
        params["d"] = rng.choice(_PARAMS["d"])
    return params


def draw_from(rng: random.Random, length: int, split: Split) -> Chain:
    """A random chain whose signature belongs to ``split``."""
    while True:
        chain = draw_chain(rng, length)
        if split_of(signature(chain)) == split:
            return chain


# ---- words ------------------------------------------------------------------------------------


def instruction(rng: random.Random, chain: Chain) -> str:
    """The chain in words: a random phrasing of each step, joined in one of four ways."""
    parts = [link.fill(rng.choice(link.step.texts)) for link in chain]
    how = rng.choice(_WORDINGS)
    last = len(parts) - 1
    if how == "given":
        listed = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
        return f"Given {_NOUN[chain[0].step.source]}, {listed}."
    if how == "first" and last:
        middle = [f"Then {p}." for p in parts[1:last]]
        return " ".join((f"First {parts[0]}.", *middle, f"Finally {parts[last]}."))
    joint = "; " if how == "semicolon" else ", then "
    text = joint.join(parts)
    return f"{text[0].upper()}{text[1:]}."


# ---- programs ---------------------------------------------------------------------------------


def header(chain: Chain) -> str:
    return f"def {ENTRY_POINT}({PARAMETER[chain[0].step.source]}):\n"


def body(chain: Chain, style: Style) -> str:
    """The function's body in a style, indented by four spaces, ending in a newline.

    ``loop``: one block per step with an accumulator each, as the student writes.
    ``chain``: one expression per line. ``nested``: one expression for it all.
    """
    render = {"loop": _loop_lines, "chain": _chain_lines, "nested": _nested_lines}[style]
    return "".join(f"    {line}\n" for line in render(chain))


def program(chain: Chain, style: Style) -> str:
    return header(chain) + body(chain, style)


def _loop_lines(chain: Chain) -> list[str]:
    lines: list[str] = []
    name = PARAMETER[chain[0].step.source]
    for link, out in zip(chain, _LOOP_NAMES, strict=False):
        lines += [link.fill(line, x=name, o=out) for line in link.step.loop]
        name = out
    return [*lines, f"return {name}"]


def _chain_lines(chain: Chain) -> list[str]:
    lines: list[str] = []
    name = PARAMETER[chain[0].step.source]
    for link, out in zip(chain[:-1], _CHAIN_NAMES, strict=False):
        lines.append(f"{out} = {link.fill(link.step.expr, x=name)}")
        name = out
    return [*lines, f"return {chain[-1].fill(chain[-1].step.expr, x=name)}"]


def _nested_lines(chain: Chain) -> list[str]:
    text = PARAMETER[chain[0].step.source]
    for link in chain:
        text = link.fill(link.step.expr, x=_grouped(text))
    return [f"return {text}"]


@cache
def _grouped(text: str) -> str:
    """The expression, in parentheses where an operator beside it could take it apart."""
    loose = (ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Compare, ast.BoolOp)
    return f"({text})" if isinstance(ast.parse(text, mode="eval").body, loose) else text


@cache
def _function(expr: str) -> Callable[[Any], Any]:
    # The source is a template of the step table with its parameters: never a model's text.
    return cast("Callable[[Any], Any]", eval(f"lambda x_: {expr}", {}))  # noqa: S307


def run(chain: Chain, value: Any) -> Any:
    """The value the chain gives; runs the steps' own expressions, one after the other."""
    for link in chain:
        value = _function(link.fill(link.step.expr, x="x_"))(value)
    return value


# ---- tasks ------------------------------------------------------------------------------------


def make_task(chain: Chain, text: str, split: str = "pool") -> Task | None:
    """The chain as a task with seen and hidden tests; None where tests cannot tell it apart.

    Hidden tests take at least three different values, change the input, and notice the loss
    of any one step that could be left out. Their inputs derive from the task's own content.
    """
    links = [(link.step.name, dict(link.params)) for link in chain]
    task_id = content_id("lab", text, links)
    rng = random.Random(derive_seed("lab tests", task_id))
    for _ in range(3):
        inputs = draw_inputs(rng, chain[0].step.source)
        values = [run(chain, x) for x in inputs]
        if (
            _telling(chain, inputs[SEEN_TESTS:], values[SEEN_TESTS:])
            and len({repr(v) for v in values[:SEEN_TESTS]}) >= 2
        ):
            break
    else:
        return None
    tests = tuple(
        Test(f"{ENTRY_POINT}({x!r})", repr(v)) for x, v in zip(inputs, values, strict=True)
    )
    return Task(
        task_id=f"lab/{split}/{task_id[:10]}",
        instruction=text,
        header=header(chain),
        entry_point=ENTRY_POINT,
        tests=tests[SEEN_TESTS:],
        seen_tests=tests[:SEEN_TESTS],
        reference=program(chain, "chain"),
        meta={
            "steps": [{"name": name, **params} for name, params in links],
            "difficulty": len(chain),
        },
    )


def chain_of(task: Task) -> Chain | None:
    """The chain a lab task was made from; None for a task of another source."""
    steps = task.meta.get("steps")
    if not task.task_id.startswith("lab/") or not steps:
        return None
    return tuple(Link(STEPS[s["name"]], {k: v for k, v in s.items() if k != "name"}) for s in steps)


def _telling(chain: Chain, inputs: list[Any], values: list[Any]) -> bool:
    """Do these tests refuse a constant, the identity and the chain with one step left out?"""
    shown = [repr(v) for v in values]
    if len(set(shown)) < 3 or shown == [repr(x) for x in inputs]:
        return False
    if max(map(len, shown)) > 200:
        return False
    for i, link in enumerate(chain):
        if link.step.source == link.step.target:
            shorter = chain[:i] + chain[i + 1 :]
            if shown == [repr(run(shorter, x)) for x in inputs]:
                return False
    return True


def draw_inputs(rng: random.Random, kind: str) -> list[Any]:
    """Seen inputs, then hidden ones: all different, the last ones short or empty."""
    edges: list[Any] = _EDGES[kind]
    inputs: list[Any] = []
    while len(inputs) < SEEN_TESTS + HIDDEN_TESTS - len(edges):
        x = _value(rng, kind)
        if x not in inputs and x not in edges:
            inputs.append(x)
    return inputs + edges


def _value(rng: random.Random, kind: str) -> Any:
    if kind == "I":
        return rng.randint(-20, 99)
    if kind == "L":
        numbers = [rng.randint(-6, 12) for _ in range(rng.randint(3, 8))]
        return numbers + rng.sample(numbers, 2)
    if kind == "W":
        words = [_word(rng) for _ in range(rng.randint(3, 6))]
        return words + rng.sample(words, 1)
    return _text(rng)


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("aabbccddeeorstn") for _ in range(rng.randint(1, 7)))


def _text(rng: random.Random) -> str:
    parts = [rng.choice((_word, _capital, _number))(rng) for _ in range(rng.randint(2, 4))]
    return " ".join(parts)


def _capital(rng: random.Random) -> str:
    return _word(rng).capitalize()


def _number(rng: random.Random) -> str:
    return str(rng.randint(1, 999))
