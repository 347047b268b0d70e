"""An OpenAI-compatible teacher on this machine, with the faults and the bill of a real one.

    python bench/endpoint.py --latency 1 --fault rate_limited=0.05 --fault cut=0.05 --port 8001
    with endpoint.serve(endpoint.Settings(latency=1.0)) as server: ... server.url, server.stats()

It runs in a process of its own, so that what it measures does not share its interpreter, and
speaks just enough HTTP/1.1: one call at a time on a connection that is kept open, a body of
known length. Chat, plain completions, models, files and the Batch API are served under /v1;
GET /stats tells what was asked, answered and billed, POST /set changes settings while it runs.

A call that is taken on is billed at once, whether or not the caller waits for the answer, as
providers do; refusals (429, 500, 503) cost nothing. No key is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import json
import math
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

Json = dict[str, Any]

#: Faults that cost the provider nothing: the call is turned away.
REFUSALS = ("rate_limited", "rate_limited_told", "server_error", "unavailable")
#: Faults of an answer that was computed, and so is billed.
SPOILT = (
    "timeout",
    "cut",
    "malformed",
    "empty",
    "length",
    "refusal",
    "filtered",
    "other_model",
    "prose",
)
ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
MODEL = "fake"
#: Longest head of a request, in bytes.
LONGEST_HEAD = 65536


@dataclass(frozen=True)
class Settings:
    """How the teacher answers. Shares and probabilities are 0 to 1, times are seconds.

    Raises ValueError for a fault or reply that is not known, or a share out of its range.
    """

    #: Time of an answer, and the most that chance adds to it, as a share of it.
    latency: float = 0.0
    jitter: float = 0.0
    seed: int = 0
    #: The probability of each kind of fault, one of REFUSALS or SPOILT; at most 1 in all.
    faults: Mapping[str, float] = field(default_factory=dict)
    #: True: refusals answer at once; False: after the latency.
    fault_after: bool = True
    #: When ``timeout`` answers; what ``rate_limited_told`` tells.
    hang: float = 30.0
    retry_after: float = 1.0
    #: More calls than this at once get a 429; None: no limit.
    max_calls_in_flight: int | None = None
    #: A token bucket that holds ``request_burst`` (None: a minute's worth) and starts full.
    requests_per_minute: float | None = None
    request_burst: int | None = None
    #: Whether good replies tell the bucket's state too (where there is one).
    headers: bool = False
    #: USD per million tokens; cached_price None: cached input costs what other input does.
    input_price: float = 0.0
    output_price: float = 0.0
    cached_price: float | None = None
    #: Tokens a call is said to have; None: a fourth of the characters.
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_share: float = 0.0
    #: A name of REPLIES, and the share of questions that it first answers wrongly.
    reply: str = "scale"
    wrong_share: float = 0.0
    #: Time of a batch; the share of custom_ids whose first row ends with 429 or 500; the share
    #: of the first batch that expires; whether the first batch of all is found invalid.
    batch_seconds: float = 0.0
    batch_row_errors: float = 0.0
    batch_expire_share: float = 0.0
    batch_fail_first: bool = False

    def __post_init__(self) -> None:
        for kind in self.faults:
            if kind not in REFUSALS + SPOILT:
                raise ValueError(f"no such fault: {kind!r}; one of {REFUSALS + SPOILT}")
        if self.reply not in REPLIES:
            raise ValueError(f"no such reply: {self.reply!r}; one of {sorted(REPLIES)}")
        shares = {n: getattr(self, n) for n in _SHARES}
        for name, value in {**shares, **self.faults, "faults": sum(self.faults.values())}.items():
            if not 0 <= value <= 1 + 1e-9:
                raise ValueError(f"{name} is {value}; it must be from 0 to 1")


_SHARES = ("jitter", "cached_share", "wrong_share", "batch_row_errors", "batch_expire_share")


# ---- what is answered ----------------------------------------------------------------------


def texts(body: Json) -> list[tuple[str, str]]:
    """(role, text) of every message; of a plain prompt ("user", prompt). ValueError: neither."""
    if "prompt" in body:
        return [("user", _joined(body["prompt"]))]
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise ValueError("neither messages nor a prompt")
    return [(str(m.get("role")), _joined(m.get("content"))) for m in messages]


def _joined(content: Any) -> str:
    if isinstance(content, list):
        parts = (p.get("text") if isinstance(p, dict) else p for p in content)
        return "".join(p for p in parts if isinstance(p, str))
    return content if isinstance(content, str) else ""


def scale(settings: Settings, turns: list[tuple[str, str]]) -> str:
    """The program the last ``Multiply the number by N.`` asks for.

    The first answer to a share of the N is wrong by one; whether it is the first is seen in the
    conversation alone, so that the same question always has the same answer.
    """
    for _, text in reversed(turns):
        if found := _SCALE.findall(text):
            number = int(found[-1])
            break
    else:
        return "```python\ndef f(x):\n    return x\n```"
    said = [text for role, text in turns if role == "assistant"]
    failed = re.compile(rf"x \* {number + 1}(?!\d)")
    first = len(said) < 2 and not any(failed.search(t) for t in said)
    if first and _share(settings.seed, "wrong", number) < settings.wrong_share:
        number += 1
    return f"```python\ndef scale(x):\n    return x * {number}\n```"


_SCALE = re.compile(r"Multiply the number by (-?\d+)\.")
REPLIES: dict[str, Callable[[Settings, list[tuple[str, str]]], str]] = {"scale": scale}


def _share(seed: int, *what: object) -> float:
    """A number from 0 to 1 that is always the same for the same things."""
    digest = hashlib.sha256(repr((seed, *what)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class Usage:
    """Tokens; ``cached`` is a part of ``input``."""

    input: int
    output: int
    cached: int

    def told(self) -> Json:
        return {
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def usd(self, settings: Settings) -> float:
        cached = settings.input_price if settings.cached_price is None else settings.cached_price
        fresh = (self.input - self.cached) * settings.input_price
        return (fresh + self.cached * cached + self.output * settings.output_price) / 1e6


def answer(settings: Settings, path: str, body: Json, fault: str = "") -> tuple[Json, Usage]:
    """The reply to one question, spoilt by ``fault``, and its usage; ValueError: no question."""
    turns = texts(body)
    text, finish = REPLIES[settings.reply](settings, turns), "stop"
    if fault == "length":
        text, finish = text[: text.index("return") + 4], "length"
    elif fault == "prose":
        text = "The number should be multiplied; change the last line so that it is."
    elif fault == "refusal":
        text = "I cannot help with that."
    elif fault == "filtered":
        text, finish = "", "content_filter"
    usage = _usage(settings, turns, text)
    told = {
        "id": "chatcmpl-1",
        "object": "chat.completion" if path == ENDPOINTS[0] else "text_completion",
        "created": int(time.time()),
        "model": "another-model" if fault == "other_model" else body.get("model", MODEL),
        "choices": [] if fault == "empty" else [_choice(path, text, finish, fault == "refusal")],
        "usage": usage.told(),
    }
    return told, usage


def _choice(path: str, text: str, finish: str, refused: bool) -> Json:
    choice: Json = {"index": 0, "finish_reason": finish, "logprobs": None}
    if path != ENDPOINTS[0]:
        return choice | {"text": text}
    said, refusal = (None, text) if refused else (text, None)
    return choice | {"message": {"role": "assistant", "content": said, "refusal": refusal}}


def _usage(settings: Settings, turns: list[tuple[str, str]], text: str) -> Usage:
    asked, said = settings.input_tokens, settings.output_tokens
    asked = sum(len(t) for _, t in turns) // 4 if asked is None else asked
    said = len(text) // 4 if said is None else said
    return Usage(asked, said, int(asked * settings.cached_share))


# ---- replies over HTTP ---------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """One request; ``path`` is without the query, header names are in small letters."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """A response; ``cut``: only half the body is sent, then the connection is closed."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    type: str = "application/json"
    cut: bool = False

    def encoded(self) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"content-type: {self.type}",
            f"content-length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        body = self.body[: len(self.body) // 2] if self.cut else self.body
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def ok(body: Any) -> Reply:
    return Reply(200, json.dumps(body).encode())


def failed(status: int, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    """An error as the API words it."""
    kind = {429: "rate_limit_exceeded", 500: "server_error"}.get(status, "invalid_request_error")
    error = {"message": message, "type": kind, "param": None, "code": kind}
    return Reply(status, json.dumps({"error": error}).encode(), headers or {})


def refusal(settings: Settings, fault: str) -> Reply:
    """The reply of a fault that turns the call away."""
    if fault == "unavailable":
        page = b"<html><body><h1>503 Service Unavailable</h1></body></html>"
        return Reply(503, page, type="text/html")
    if fault == "server_error":
        return failed(500, "The server had an error while processing your request.")
    told = {"retry-after": f"{settings.retry_after:g}"} if fault == "rate_limited_told" else {}
    return failed(429, "Rate limit reached for requests.", told)


def spell(seconds: float) -> str:
    """A time as the rate limit headers have it: 8ms, 1.2s, 6m0s, 1h0m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 1000) / 1000:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


class Bucket:
    """The calls that a limit per minute still allows."""

    def __init__(self, settings: Settings) -> None:
        self.limit = settings.requests_per_minute or 0.0
        self.size = settings.request_burst or max(1.0, self.limit)
        self.level, self.filled = float(self.size), time.monotonic()

    def take(self) -> bool:
        """Take one call, where there is one; always where there is no limit."""
        if not self.limit:
            return True
        self._fill()
        taken = self.level >= 1
        self.level -= taken
        return taken

    def _fill(self) -> None:
        now = time.monotonic()
        self.level = min(self.size, self.level + (now - self.filled) * self.limit / 60)
        self.filled = now

    def headers(self) -> dict[str, str]:
        """The state as headers; none where there is no limit."""
        if not self.limit:
            return {}
        return {
            "x-ratelimit-limit-requests": f"{self.limit:g}",
            "x-ratelimit-remaining-requests": str(int(self.level)),
            "x-ratelimit-reset-requests": spell((self.size - self.level) * 60 / self.limit),
        }

    def refusal(self) -> Reply:
        wait = math.ceil((1 - self.level) * 60 / self.limit)
        headers = {"retry-after": str(max(1, wait)), **self.headers()}
        return failed(429, "Rate limit reached for requests per minute.", headers)


# ---- the book ------------------------------------------------------------------------------


@dataclass
class Book:
    """What was asked, answered and billed. At rest, ``requests`` is the sum of ``answered``,
    ``faults``, ``invalid`` (400) and ``abandoned`` (the caller left before a good reply)."""

    requests: int = 0
    answered: int = 0
    invalid: int = 0
    abandoned: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    billed_usd: float = 0.0
    billed_input_tokens: int = 0
    billed_output_tokens: int = 0
    batches: int = 0
    batch_rows: int = 0
    batch_rows_answered: int = 0
    repeated: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def bill(self, settings: Settings, usage: Usage, part: float = 1.0) -> None:
        self.billed_usd += usage.usd(settings) * part
        self.billed_input_tokens += usage.input
        self.billed_output_tokens += usage.output


class Call:
    """One question in flight; a ``fault`` is "" for a good reply."""

    __slots__ = ("digest", "fault", "teacher")

    def __init__(self, teacher: Teacher, digest: str, fault: str) -> None:
        self.teacher, self.digest, self.fault = teacher, digest, fault
        book = teacher.book
        book.in_flight += 1
        book.peak_in_flight = max(book.peak_in_flight, book.in_flight)

    def end(self, *, written: bool) -> None:
        """The reply has been written to the socket whole, or never will be."""
        book = self.teacher.book
        book.in_flight -= 1
        if self.fault:
            return
        if not written:
            book.abandoned += 1
            return
        book.answered += 1
        times = self.teacher.questions.setdefault(self.digest, [])
        book.repeated += bool(times)
        times.append(time.monotonic())


class Teacher:
    """The endpoint behind the connections."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.book = Book()
        #: sha256 of a body -> when (time.monotonic) a good reply to it had been written.
        self.questions: dict[str, list[float]] = {}
        self.batches = Batches(self)
        self._rng = random.Random(settings.seed)
        self._bucket = Bucket(settings)
        self._started = time.monotonic()

    def handle(self, request: Request, connection: Connection) -> None:
        """Answer now, or later through the connection."""
        if request.method == "POST" and request.path in ENDPOINTS:
            self._ask(request, connection)
        else:
            connection.send(self._other(request))

    def _ask(self, request: Request, connection: Connection) -> None:
        self.book.requests += 1
        if over := self._over_limit():
            return connection.send(over)
        fault, delay = self._draw()
        try:
            body = read_object(request.body)
            if body.get("stream"):
                raise ValueError("streaming is not served here")
            told, usage = answer(self.settings, request.path, body, fault)
        except ValueError as e:
            self.book.invalid += 1
            return connection.send(failed(400, str(e)))
        if fault:
            self.book.faults[fault] += 1
        if fault not in REFUSALS:
            self.book.bill(self.settings, usage)
        call = Call(self, hashlib.sha256(request.body).hexdigest(), fault)
        connection.later(delay, self._reply(told, fault), call)
        return None

    def _over_limit(self) -> Reply | None:
        most = self.settings.max_calls_in_flight
        if most is not None and self.book.in_flight >= most:
            self.book.faults["limit_in_flight"] += 1
            return failed(429, f"More than {most} calls at once.")
        if not self._bucket.take():
            self.book.faults["limit_requests"] += 1
            return self._bucket.refusal()
        return None

    def _draw(self) -> tuple[str, float]:
        """A fault, or "", and the seconds until the reply."""
        # both are always drawn: the n-th call's luck does not depend on the settings
        luck, late = self._rng.random(), self._rng.random()
        delay = self.settings.latency * (1 + self.settings.jitter * late)
        for fault, probability in self.settings.faults.items():
            luck -= probability
            if luck < 0:
                if fault == "timeout":
                    return fault, self.settings.hang
                at_once = self.settings.fault_after and fault in REFUSALS
                return fault, 0.0 if at_once else delay
        return "", delay

    def _reply(self, told: Json, fault: str) -> Reply:
        if fault in REFUSALS:
            return refusal(self.settings, fault)
        body = json.dumps(told).encode()
        if fault == "malformed":
            body = body[: len(body) * 2 // 3]
        headers = self._bucket.headers() if self.settings.headers else {}
        return Reply(200, body, headers, cut=fault == "cut")

    def _other(self, request: Request) -> Reply:
        """All that is no question: models, files, batches, and what the bench asks."""
        try:
            match request.method, request.path:
                case "GET", "/v1/models":
                    made = {"id": MODEL, "object": "model", "created": 0, "owned_by": "bench"}
                    return ok({"object": "list", "data": [made]})
                case "GET", "/stats":
                    return ok(self._stats("questions" in request.query))
                case "POST", "/set":
                    return self._set(read_object(request.body))
            return self.batches.handle(request)
        except (ValueError, TypeError) as e:
            return failed(400, str(e))

    def _stats(self, questions: bool) -> Json:
        stats = vars(self.book) | {"seconds_since_start": time.monotonic() - self._started}
        return stats | ({"questions": self.questions} if questions else {})

    def _set(self, changes: Json) -> Reply:
        self.settings = replace(self.settings, **changes)
        if "seed" in changes:
            self._rng = random.Random(self.settings.seed)
        if changes.keys() & {"requests_per_minute", "request_burst"}:
            self._bucket = Bucket(self.settings)
        return ok(asdict(self.settings))


def read_object(raw: bytes) -> Json:
    """The JSON object of a body; ValueError where it holds none."""
    body = json.loads(raw)
    if not isinstance(body, dict):
        raise ValueError("the body is no JSON object")
    return body


# ---- the Batch API -------------------------------------------------------------------------


@dataclass
class Batch:
    """A batch; ``told`` is the object the API shows."""

    told: Json
    rows: list[Json]
    expiring: frozenset[int] = frozenset()
    unlucky: frozenset[int] = frozenset()
    timer: asyncio.TimerHandle | None = None
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def running(self) -> bool:
        return self.timer is not None

    def progress(self) -> float:
        """The share of its time that has passed."""
        return min(1.0, (time.monotonic() - self.started) / self.seconds) if self.seconds else 1.0


class Batches:
    """The files and batches of one server."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._files: dict[str, tuple[Json, bytes]] = {}
        self._batches: dict[str, Batch] = {}
        self._submitted: set[str] = set()
        self._ran = 0

    def handle(self, request: Request) -> Reply:
        """A route of files or batches; ValueError for what the caller got wrong."""
        parts = request.path.strip("/").split("/")[1:]
        match request.method, *parts:
            case "POST", "files":
                fields = form(request)
                return ok(self._keep(*fields["file"], fields["purpose"][1].decode()))
            case "GET", "files", str(name) if name in self._files:
                return ok(self._files[name][0])
            case "GET", "files", str(name), "content" if name in self._files:
                return Reply(200, self._files[name][1], type="application/octet-stream")
            case "POST", "batches":
                return self._create(read_object(request.body))
            case "GET", "batches":
                return self._list(int(request.query.get("limit", 20)), request.query.get("after"))
            case "GET", "batches", str(name) if name in self._batches:
                return ok(self._shown(self._batches[name]))
            case "POST", "batches", str(name), "cancel" if name in self._batches:
                return self._cancel(self._batches[name])
        return failed(404, f"Nothing here: {request.method} {request.path}")

    def _keep(self, name: str, content: bytes, purpose: str) -> Json:
        told = {
            "id": f"file-{len(self._files) + 1}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        self._files[told["id"]] = (told, content)  # type: ignore[index]
        return told

    def _create(self, asked: Json) -> Reply:
        if asked.get("input_file_id") not in self._files:
            return failed(404, f"No such file: {asked.get('input_file_id')}")
        if asked.get("endpoint") not in ENDPOINTS:
            raise ValueError(f"endpoint must be one of {ENDPOINTS}")
        settings, book = self._teacher.settings, self._teacher.book
        rows, errors = read_rows(self._files[asked["input_file_id"]][1], asked["endpoint"])
        book.batches += 1
        if settings.batch_fail_first and book.batches == 1:
            errors = [_batch_error("invalid_json_line", "This line is not valid JSON.", 1)]
        batch = Batch(_batch_object(book.batches, asked), rows, seconds=settings.batch_seconds)
        self._batches[batch.told["id"]] = batch
        if errors:
            batch.told |= {"errors": {"object": "list", "data": errors}}
            _stamp(batch, "failed")
            return ok(batch.told)
        self._start(batch)
        return ok(batch.told)

    def _start(self, batch: Batch) -> None:
        settings, count = self._teacher.settings, len(batch.rows)
        self._teacher.book.batch_rows += count
        self._ran += 1
        if self._ran == 1:
            picked = random.Random(settings.seed).sample(
                range(count), round(count * settings.batch_expire_share)
            )
            batch.expiring = frozenset(picked)
        batch.unlucky = frozenset(
            n for n, row in enumerate(batch.rows) if self._unlucky(row["custom_id"])
        )
        self._submitted |= {row["custom_id"] for row in batch.rows}
        status = "expired" if batch.expiring else "completed"
        loop = asyncio.get_running_loop()
        batch.timer = loop.call_later(batch.seconds, self._settle, batch, status)

    def _unlucky(self, custom_id: str) -> bool:
        """Whether this row fails: some do, the first time they are sent."""
        settings = self._teacher.settings
        lot = _share(settings.seed, "row", custom_id)
        return custom_id not in self._submitted and lot < settings.batch_row_errors

    def _settle(self, batch: Batch, status: str) -> None:
        """End a batch: answer and bill its rows, write its files."""
        assert batch.timer is not None
        batch.timer.cancel()
        batch.timer = None
        done = round(len(batch.rows) * batch.progress()) if status == "cancelled" else None
        good: list[Json] = []
        bad: list[Json] = []
        for n, row in enumerate(batch.rows):
            ended = n in batch.expiring or (done is not None and n >= done)
            told = _unrun(row, status) if ended else self._run_row(batch, n, row)
            passed = told["response"] is not None and told["response"]["status_code"] == 200
            (good if passed else bad).append(told)
        for key, rows in (("output_file_id", good), ("error_file_id", bad)):
            if rows:
                text = "".join(json.dumps(r) + "\n" for r in rows)
                name = f"{batch.told['id']}_{key.removesuffix('_file_id')}.jsonl"
                batch.told[key] = self._keep(name, text.encode(), "batch_output")["id"]
        counts = {"total": len(batch.rows), "completed": len(good), "failed": len(bad)}
        batch.told |= {"request_counts": counts, "in_progress_at": batch.told["created_at"]}
        self._teacher.book.batch_rows_answered += len(good)
        _stamp(batch, status)

    def _run_row(self, batch: Batch, number: int, row: Json) -> Json:
        settings = self._teacher.settings
        if number in batch.unlucky:
            status = 429 if _share(settings.seed, "status", row["custom_id"]) < 0.5 else 500
            return _ran(row, status, json.loads(failed(status, "Try again.").body))
        try:
            told, usage = answer(settings, row["url"], row["body"])
        except ValueError as e:
            return _ran(row, 400, json.loads(failed(400, str(e)).body))
        self._teacher.book.bill(settings, usage, 0.5)
        return _ran(row, 200, told)

    def _shown(self, batch: Batch) -> Json:
        """The object as it is now: while it runs, its status follows from the time."""
        if not batch.running:
            return batch.told
        share, total = batch.progress(), len(batch.rows)
        told = batch.told | {"request_counts": {"total": total, "completed": 0, "failed": 0}}
        if share < 0.1:
            return told | {"status": "validating"}
        told["request_counts"]["completed"] = int(total * share)
        told["in_progress_at"] = told["created_at"]
        return told | {"status": "in_progress" if share < 0.9 else "finalizing"}

    def _list(self, limit: int, after: str | None) -> Reply:
        newest = list(reversed(self._batches))
        if after is not None and after not in self._batches:
            return failed(404, f"No such batch: {after}")
        rest = newest[newest.index(after) + 1 :] if after else newest
        page = [self._shown(self._batches[name]) for name in rest[:limit]]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return ok({"object": "list", "data": page, "has_more": len(rest) > limit, **ends})

    def _cancel(self, batch: Batch) -> Reply:
        if not batch.running:
            raise ValueError(f"a batch that is {batch.told['status']} cannot be cancelled")
        self._settle(batch, "cancelled")
        return ok(batch.told)


def read_rows(content: bytes, endpoint: str) -> tuple[list[Json], list[Json]]:
    """The rows of a batch's file, and what is wrong with it."""
    rows: list[Json] = []
    errors: list[Json] = []
    seen: set[str] = set()
    for line, raw in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(raw)
            name, body = row["custom_id"], row["body"]
            if name in seen or row["method"] != "POST" or row["url"] != endpoint:
                raise ValueError("custom_id must be new, method POST, url the batch's endpoint")
            if not isinstance(name, str) or not isinstance(body, dict):
                raise ValueError("custom_id must be a text, body an object")
        except (ValueError, KeyError, TypeError) as e:
            errors.append(_batch_error("invalid_request", f"{type(e).__name__}: {e}", line))
            continue
        seen.add(name)
        rows.append(row)
    if not rows and not errors:
        errors.append(_batch_error("empty_file", "The input file has no rows.", None))
    return rows, errors


def _batch_error(code: str, message: str, line: int | None) -> Json:
    return {"code": code, "message": message, "param": None, "line": line}


def _batch_object(number: int, asked: Json) -> Json:
    now = int(time.time())
    unset = ("output_file_id", "error_file_id", "errors", "in_progress_at", "completed_at")
    return dict.fromkeys(unset) | {
        "id": f"batch_{number}",
        "object": "batch",
        "endpoint": asked["endpoint"],
        "status": "validating",
        "input_file_id": asked["input_file_id"],
        "completion_window": asked.get("completion_window", "24h"),
        "created_at": now,
        "expires_at": now + 86400,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": asked.get("metadata"),
    }


def _stamp(batch: Batch, status: str) -> None:
    batch.told |= {"status": status, f"{status}_at": int(time.time())}


def _ran(row: Json, status: int, body: Json) -> Json:
    name = row["custom_id"]
    response = {"status_code": status, "request_id": f"req-{name}", "body": body}
    return {"id": f"batch_req_{name}", "custom_id": name, "response": response, "error": None}


def _unrun(row: Json, status: str) -> Json:
    name = row["custom_id"]
    error = {"code": f"batch_{status}", "message": f"This request was not run: {status}."}
    return {"id": f"batch_req_{name}", "custom_id": name, "response": None, "error": error}


def form(request: Request) -> dict[str, tuple[str, bytes]]:
    """The fields of a multipart form: name -> (file name, content); needs file and purpose."""
    found = re.search(r'boundary="?([^";]+)', request.headers.get("content-type", ""))
    if not found:
        raise ValueError("the body is no multipart form")
    fields: dict[str, tuple[str, bytes]] = {}
    for part in request.body.split(b"--" + found[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        names = dict(re.findall(r'(\bname|filename)="([^"]*)"', head.decode()))
        fields[names.get("name", "")] = (names.get("filename", ""), content.removesuffix(b"\r\n"))
    if missing := {"file", "purpose"} - fields.keys():
        raise ValueError(f"the form lacks {sorted(missing)}")
    return fields


# ---- connections ---------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One connection that is kept open; its requests are answered one after another."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._busy = self._taking = self._last = False
        self._call: Call | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=0)  # so resume_writing says: all is written

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._take()

    def _take(self) -> None:
        """Handle what has arrived whole; a loop, for many may have come at once."""
        if self._taking:
            return
        self._taking = True
        while not self._busy and (request := self._next()):
            self._busy = True
            self._teacher.handle(request, self)
        self._taking = False

    def _next(self) -> Request | None:
        """The next request, once all of it is here."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > LONGEST_HEAD:
                self._refuse(431, "The head of the request is too long.")
            return None
        try:
            method, target, headers = parse_head(self._received[:end].decode("latin-1"))
            size = int(headers.get("content-length", 0))
            if size < 0:
                raise ValueError("a body of a negative length")
        except ValueError:
            self._refuse(400, "This is no HTTP request.")
            return None
        if "transfer-encoding" in headers:
            self._refuse(411, "A body needs a content-length.")
            return None
        start = end + 4
        if len(self._received) < start + size:
            return None
        body = bytes(self._received[start : start + size])
        del self._received[: start + size]
        self._last = headers.get("connection", "").lower() == "close"
        path, _, query = target.partition("?")
        return Request(method, path, dict(parse_qsl(query)), headers, body)

    def _refuse(self, status: int, why: str) -> None:
        self._received.clear()
        self._last = True
        self.send(failed(status, why))

    def later(self, delay: float, reply: Reply, call: Call) -> None:
        """Send the reply to a call after ``delay`` seconds, unless the caller has gone."""
        self._call = call
        if delay <= 0:
            self.send(reply)
        else:
            self._timer = asyncio.get_running_loop().call_later(delay, self.send, reply)

    def send(self, reply: Reply) -> None:
        self._last = self._last or reply.cut
        self._transport.write(reply.encoded())
        if self._transport.get_write_buffer_size() == 0:
            self._written()

    def resume_writing(self) -> None:
        self._written()

    def _written(self) -> None:
        if self._transport.is_closing():  # the write failed; connection_lost tells the call
            return
        self._end_call(written=True)
        self._busy = False
        if self._last:
            self._transport.close()
        else:
            self._take()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_call(written=False)

    def _end_call(self, *, written: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        call, self._call, self._timer = self._call, None, None
        if call is not None:
            call.end(written=written)


def parse_head(head: str) -> tuple[str, str, dict[str, str]]:
    """(method, target, headers) of a request's head; ValueError where it is none."""
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return method, target, headers


async def run(settings: Settings, port: int, *, with_parent: bool) -> None:
    """Serve on loopback (port 0: any) and print the URL; ``with_parent``: until stdin closes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    teacher = Teacher(settings)
    server = await loop.create_server(lambda: Connection(teacher), "127.0.0.1", port, backlog=4096)
    if with_parent:
        loop.add_reader(0, _end_at_eof, ended)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await ended.wait()


def _end_at_eof(ended: asyncio.Event) -> None:
    if not os.read(0, 4096):
        ended.set()


# ---- from Python, and from the command line --------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running endpoint; ``pid`` is its process."""

    url: str
    pid: int

    def stats(self, *, questions: bool = False) -> Json:
        """The counts of Book, ``seconds_since_start``, and where asked for, when (in
        time.monotonic of this machine) good replies to each body had been written."""
        return self._ask("GET", "/stats?questions=1" if questions else "/stats")

    def set(self, **changes: Any) -> None:
        """Change settings for the calls to come; ValueError where they are refused."""
        self._ask("POST", "/set", json.dumps(changes))

    def _ask(self, method: str, path: str, body: str | None = None) -> Json:
        host = self.url.removeprefix("http://").removesuffix("/v1")
        with contextlib.closing(http.client.HTTPConnection(host, timeout=60)) as connection:
            connection.request(method, path, body)
            told: Json = json.loads(connection.getresponse().read())
        if "error" in told:
            raise ValueError(told["error"]["message"])
        return told


@contextlib.contextmanager
def serve(settings: Settings | None = None) -> Iterator[Server]:
    """Run the endpoint in a process of its own, on any free port, until the block ends."""
    told = json.dumps(asdict(settings or Settings()))
    process = subprocess.Popen(
        [sys.executable, __file__, "--with-parent", "--settings", told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the endpoint did not start: exit code {process.wait()}")
        yield Server(url, process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _from_arguments(args: argparse.Namespace) -> Settings:
    changes: Json = json.loads(args.settings)
    for name in ("latency", "jitter", "seed"):
        if getattr(args, name) is not None:
            changes[name] = getattr(args, name)
    if args.fault:
        pairs = (f.partition("=") for f in args.fault)
        changes["faults"] = {kind: float(share) for kind, _, share in pairs}
    if args.price:
        price_in, price_out = (float(p) for p in args.price.split(","))
        changes |= {"input_price": price_in, "output_price": price_out}
    return Settings(**changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--latency", type=float, help="seconds")
    parser.add_argument("--jitter", type=float, help="the most added to it, as a share")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--fault", action="append", metavar="KIND=P", help="may be repeated")
    parser.add_argument("--price", metavar="IN,OUT", help="USD per million tokens")
    parser.add_argument("--settings", default="{}", help="any other settings, as JSON")
    parser.add_argument("--with-parent", action="store_true", help="end when stdin is closed")
    args = parser.parse_args()
    try:
        settings = _from_arguments(args)
    except (ValueError, TypeError) as e:
        parser.error(str(e))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(settings, args.port, with_parent=args.with_parent))


if __name__ == "__main__":
    main()
