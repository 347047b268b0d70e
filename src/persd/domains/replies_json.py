"""Tasks that a teacher told as JSON, though it was asked for headings and fences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from persd.domains.names import clean
from persd.domains.parse import blocks_in
from persd.records import Proposal


@dataclass(frozen=True, slots=True)
class Told:
    """What a JSON text holds."""

    tasks: list[Proposal | tuple[str, str]]
    """Tasks, or what one lacks and its text."""
    rest: str
    """A last object that the text breaks off within; empty: it is whole."""


def json_tasks(text: str) -> Told | None:
    """The tasks of a reply that is JSON, or whose fenced block is; None: it is none."""
    for body in _bodies(text):
        values, rest = _values(body)
        objects = [o for value in values for o in _objects(value) if _is_task(o)]
        cut = rest if rest and (objects or any(f'"{key}"' in rest for key in _CODE)) else ""
        if objects or cut:
            return Told([_task(o) for o in objects], cut)
    return None


def json_calls(text: str) -> list[str] | None:
    """The calls of a reply that is a JSON list of them, or an object with one; None: no JSON."""
    for body in _bodies(text):
        values, _ = _values(body)
        calls = [call for value in values for call in _calls(value)]
        if calls:
            return calls
    return None


def _bodies(text: str) -> Iterator[str]:
    if text.lstrip()[:1] in ("{", "["):
        yield text
    yield from (b.code for b in blocks_in(text) if b.language.startswith("json"))


def _values(body: str) -> tuple[list[Any], str]:
    """The values that stand in the text one after the other, and what is left of it.

    Of a list or an object that is not closed: the whole objects in it.
    """
    values, at = list[Any](), 0
    inner = 2  # levels to go down where the outer ones are not closed
    while (at := _next(body, at)) >= 0:
        try:
            value, at = _DECODER.raw_decode(body, at)
        except (ValueError, RecursionError, MemoryError):
            if values or not inner:
                return values, body[at:]
            inner, at = inner - 1, at + 1
        else:
            values.append(value)
    return values, body if inner < 2 and not values else ""


def _next(body: str, at: int) -> int:
    """Where the next list or object begins; -1: nowhere."""
    found = _OPENING.search(body, at)
    return -1 if found is None else found.start()


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects that can be tasks: the value, its items, or those under a key of its own."""
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))
    elif isinstance(value, dict):
        inner = next((value[k] for k in _LISTS if isinstance(value.get(k), list)), None)
        yield from [value] if inner is None or _is_task(value) else _objects(inner)


def _is_task(value: Mapping[str, Any]) -> bool:
    return any(key in value for key in (*_CODE, *_INSTRUCTION))


def _task(value: Mapping[str, Any]) -> Proposal | tuple[str, str]:
    code = _text(value, _CODE)
    blocks = [block.code for block in blocks_in(code)]
    code = "\n\n".join(blocks) if blocks else code
    if not code.strip():
        return "the task has no program", json.dumps(value)
    return Proposal(
        instruction=_text(value, _INSTRUCTION).strip(),
        code=code.rstrip("\n") + "\n",
        calls=tuple(_calls({k: value[k] for k in _CALLS if k in value})),
        entry_point=_text(value, _NAME).strip().partition("(")[0].strip("` "),
    )


def _text(value: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return next((clean(value[k]) for k in keys if isinstance(value.get(k), str)), "")


def _calls(value: Any) -> list[str]:
    """Calls under one of their names, or in a list: each as told."""
    if isinstance(value, dict):
        value = next((value[key] for key in _CALLS if key in value), [])
    if isinstance(value, str):
        value = value.split("\n")
    calls = [_call(item) for item in value] if isinstance(value, list) else []
    return [call for call in calls if call]


def _call(item: Any) -> str:
    if isinstance(item, dict):
        item = next((item[k] for k in ("call", *_CALLS, "input", "code") if k in item), item)
    return clean(item).strip() if isinstance(item, str) else json.dumps(item)


_OPENING = re.compile(r"[\[{]")
_DECODER = json.JSONDecoder(strict=False)
_LISTS = ("tasks", "problems", "exercises", "items", "data")
_INSTRUCTION = ("instruction", "instructions", "description", "problem", "statement", "task")
_CODE = ("code", "solution", "reference", "reference_solution", "function", "program")
_CALLS = ("calls", "test_calls", "example_calls", "function_calls", "tests", "examples")
_NAME = ("entry_point", "function_name", "name")
