"""The teacher that the benches ask: each route, each fault, its bill and its end."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from test_kill import load_bench

endpoint = load_bench("endpoint")
PRICES = {"input_price": 1.0, "output_price": 10.0, "input_tokens": 1000, "output_tokens": 100}
#: What one call with these tokens costs, in USD.
COST = (1000 * 1.0 + 100 * 10.0) / 1e6


@pytest.fixture(scope="module")
def shared() -> Iterator[Any]:
    """One server for the tests that look at replies only."""
    with endpoint.serve() as server:
        yield server


@pytest.fixture
def server(shared: Any) -> Any:
    shared.set(**json.loads(json.dumps(vars(endpoint.Settings()))))
    return shared


@contextlib.contextmanager
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="x", base_url=server.url, max_retries=0, timeout=20) as opened:
        yield opened


def question(number: int = 7, *earlier: str) -> list[Any]:
    turns = [{"role": "user", "content": f"Multiply the number by {number}."}]
    for said in earlier:
        turns += [{"role": "assistant", "content": said}, {"role": "user", "content": "Wrong."}]
    return turns


def ask(server: Any, number: int = 7, *earlier: str) -> Any:
    with client(server) as opened:
        return opened.chat.completions.create(model="m", messages=question(number, *earlier))


def send(server: Any, body: object, path: str = "/v1/chat/completions") -> tuple[int, Any, bytes]:
    """(status, headers, body) without the SDK."""
    host = server.url.removeprefix("http://").removesuffix("/v1")
    with contextlib.closing(http.client.HTTPConnection(host, timeout=20)) as connection:
        connection.request("POST", path, json.dumps(body))
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()


def program(number: int) -> str:
    return f"```python\ndef scale(x):\n    return x * {number}\n```"


def until(found: Callable[[], Any]) -> Any:
    """What ``found`` gives once it is true; fails after a while."""
    for _ in range(1000):
        if value := found():
            return value
        time.sleep(0.01)
    raise AssertionError("it did not come")


# ---- the routes ---------------------------------------------------------------------------


def test_a_chat(server: Any) -> None:
    server.set(cached_share=0.5, input_tokens=100, output_tokens=9)
    reply = ask(server, 31)
    assert (reply.object, reply.model) == ("chat.completion", "m")
    assert reply.choices[0].message.content == program(31)
    assert reply.choices[0].finish_reason == "stop"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (100, 9)
    assert reply.usage.prompt_tokens_details.cached_tokens == 50


def test_a_plain_completion(server: Any) -> None:
    with client(server) as opened:
        prompt = "Multiply the number by 2. Multiply the number by -3."
        reply = opened.completions.create(model="m", prompt=prompt)
    assert (reply.object, reply.choices[0].text) == ("text_completion", program(-3))
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(prompt) // 4
    assert reply.usage.completion_tokens == len(program(-3)) // 4


def test_a_question_that_is_not_known_gets_a_program_all_the_same(server: Any) -> None:
    with client(server) as opened:
        reply = opened.completions.create(model="m", prompt="What?")
    assert reply.choices[0].text == "```python\ndef f(x):\n    return x\n```"


def test_models(server: Any) -> None:
    with client(server) as opened:
        assert [m.id for m in opened.models.list()] == [endpoint.MODEL]


@pytest.mark.parametrize(
    "body", [[1], {"model": "m"}, {"messages": "x"}, {"prompt": "", "stream": True}]
)
def test_a_bad_question_is_refused(server: Any, body: object) -> None:
    status, _, said = send(server, body)
    assert status == 400
    assert json.loads(said)["error"]["message"]


def test_what_is_not_there_is_said(server: Any) -> None:
    assert send(server, {}, "/v1/embeddings")[0] == 404
    with client(server) as opened, pytest.raises(openai.NotFoundError):
        opened.batches.retrieve("batch_99")


@pytest.mark.parametrize(("latency", "count"), [(0.001, 50), (0, 2000)])
def test_many_requests_on_one_connection_are_answered_in_order(
    server: Any, latency: float, count: int
) -> None:
    server.set(latency=latency)
    body = [json.dumps({"messages": question(n)}).encode() for n in range(count)]
    head = "POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {}\r\n\r\n"
    raw = b"".join(head.format(len(b)).encode() + b for b in body)
    port = int(server.url.split(":")[2].removesuffix("/v1"))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for start in range(0, len(raw), 1021):  # in pieces, and ahead of the answers
            connection.sendall(raw[start : start + 1021])
        said = b""
        while said.count(b"HTTP/1.1 200 OK") < count or not said.endswith(b"}}"):
            said += (more := connection.recv(65536))
            assert more, "the connection was closed"
    found = [said.find(f"x * {n}\\n".encode()) for n in range(count)]
    assert found == sorted(found)
    assert found[0] > 0


def test_settings_change_while_it_runs(server: Any) -> None:
    server.set(faults={"unavailable": 1})
    with pytest.raises(openai.InternalServerError):
        ask(server)
    server.set(faults={})
    assert ask(server).choices


@pytest.mark.parametrize(
    "wrong",
    [
        {"fault": {}},
        {"faults": {"lightning": 0.5}},
        {"faults": {"cut": 0.6, "empty": 0.6}},
        {"jitter": 2},
        {"reply": "rhyme"},
    ],
)
def test_settings_that_make_no_sense_are_refused(server: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        endpoint.Settings(**wrong)
    with pytest.raises(ValueError):
        server.set(**wrong)


# ---- faults -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status", "type", "retry_after"),
    [
        ("rate_limited", 429, "application/json", None),
        ("rate_limited_told", 429, "application/json", "3"),
        ("server_error", 500, "application/json", None),
        ("unavailable", 503, "text/html", None),
    ],
)
def test_refusals(server: Any, kind: str, status: int, type: str, retry_after: str | None) -> None:
    server.set(faults={kind: 1}, retry_after=3, latency=60)  # they do not wait for it
    told, headers, said = send(server, {"messages": question()})
    assert (told, headers["content-type"], headers["retry-after"]) == (status, type, retry_after)
    assert ("error" in json.loads(said)) if "json" in type else said.startswith(b"<html>")


def test_refusals_can_take_their_time(server: Any) -> None:
    server.set(faults={"server_error": 1}, latency=60, fault_after=False)
    with hanging(server):
        server.set(latency=0)
        assert send(server, {"messages": question()})[0] == 500


def test_a_timeout(server: Any) -> None:
    server.set(faults={"timeout": 1}, hang=60)
    with client(server) as opened, pytest.raises(openai.APITimeoutError):
        opened.with_options(timeout=0.2).chat.completions.create(model="m", messages=question())
    server.set(hang=0.1)
    assert ask(server).choices[0].message.content == program(7)


def test_a_reply_that_is_cut(server: Any) -> None:
    server.set(faults={"cut": 1})
    with pytest.raises(http.client.IncompleteRead) as caught:
        send(server, {"messages": question()})
    assert 0 <= (caught.value.expected or 0) - len(caught.value.partial) <= 1
    with pytest.raises(openai.APIConnectionError):
        ask(server)


def test_a_reply_that_is_no_json(server: Any) -> None:
    server.set(faults={"malformed": 1})
    status, headers, said = send(server, {"messages": question()})
    assert (status, int(headers["content-length"])) == (200, len(said))
    with pytest.raises(json.JSONDecodeError):
        json.loads(said)


def test_a_reply_without_choices(server: Any) -> None:
    server.set(faults={"empty": 1})
    reply = ask(server)
    assert reply.choices == []
    assert reply.usage.completion_tokens > 0


def spoilt(server: Any, kind: str) -> Any:
    server.set(faults={kind: 1})
    return ask(server).choices[0]


def test_answers_that_are_spoilt(server: Any) -> None:
    length = spoilt(server, "length")
    assert length.finish_reason == "length"
    assert program(7).startswith(length.message.content)
    assert not length.message.content.endswith("\n")
    refusal = spoilt(server, "refusal")
    assert (refusal.message.content, refusal.finish_reason) == (None, "stop")
    assert refusal.message.refusal
    filtered = spoilt(server, "filtered")
    assert (filtered.message.content, filtered.finish_reason) == ("", "content_filter")
    prose = spoilt(server, "prose")
    assert prose.finish_reason == "stop"
    assert "def " not in prose.message.content


def test_another_model_answers(server: Any) -> None:
    server.set(faults={"other_model": 1})
    assert ask(server).model == "another-model"


def statuses(seed: int) -> list[int]:
    faults = {"rate_limited": 0.3, "server_error": 0.3}
    with endpoint.serve(endpoint.Settings(seed=seed, faults=faults)) as server:
        return [send(server, {"messages": question(n)})[0] for n in range(40)]


def test_faults_follow_from_the_seed() -> None:
    once, again, other = statuses(1), statuses(1), statuses(2)
    assert once == again != other
    assert {200, 429, 500} == set(once)


# ---- limits -------------------------------------------------------------------------------


def test_a_limit_per_minute(server: Any) -> None:
    server.set(requests_per_minute=6, request_burst=2, headers=True)
    told = [send(server, {"messages": question()}) for _ in range(3)]
    assert [status for status, _, _ in told] == [200, 200, 429]
    left = [headers["x-ratelimit-remaining-requests"] for _, headers, _ in told]
    assert left == ["1", "0", "0"]
    headers = told[2][1]
    assert headers["x-ratelimit-limit-requests"] == "6"
    assert 1 <= int(headers["retry-after"]) <= 10
    assert headers["x-ratelimit-reset-requests"].endswith("s")


def test_the_limit_refills(server: Any) -> None:
    server.set(requests_per_minute=1200, request_burst=1)
    assert send(server, {"messages": question()})[0] == 200
    until(lambda: send(server, {"messages": question()})[0] == 200)


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0.008, "8ms"), (1.2, "1.2s"), (1, "1s"), (60, "1m0s"), (360, "6m0s"), (3661, "1h1m1s")],
)
def test_how_a_time_is_spelt(seconds: float, says: str) -> None:
    assert endpoint.spell(seconds) == says


@contextlib.contextmanager
def hanging(server: Any) -> Iterator[None]:
    """A call that is in flight and is left before its answer."""
    host = server.url.removeprefix("http://").removesuffix("/v1")
    before = server.stats()["in_flight"]
    with contextlib.closing(http.client.HTTPConnection(host)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps({"messages": question()}))
        until(lambda: server.stats()["in_flight"] == before + 1)
        yield
    until(lambda: server.stats()["in_flight"] == before)


def test_a_limit_of_calls_at_once() -> None:
    settings = endpoint.Settings(latency=60, max_calls_in_flight=1)
    with endpoint.serve(settings) as server:
        with hanging(server), pytest.raises(openai.RateLimitError):
            ask(server)
        server.set(latency=0)
        assert ask(server).choices
        stats = server.stats()
        assert stats["faults"] == {"limit_in_flight": 1}
        assert (stats["peak_in_flight"], stats["in_flight"], stats["abandoned"]) == (1, 0, 1)


# ---- answers that are wrong at first --------------------------------------------------------


def test_a_share_is_wrong_at_first_and_right_when_told(server: Any) -> None:
    server.set(wrong_share=0.5)
    said = {n: ask(server, n).choices[0].message.content for n in range(2, 22)}
    wrong = [n for n in said if said[n] == program(n + 1)]
    assert all(said[n] == program(n) for n in said if n not in wrong)
    assert 4 <= len(wrong) <= 16
    for number in wrong:
        assert ask(server, number).choices[0].message.content == program(number + 1)
        retried = ask(server, number, program(number + 1))
        assert retried.choices[0].message.content == program(number)


def test_an_earlier_turn_that_is_right_is_no_failed_repair(server: Any) -> None:
    server.set(wrong_share=1)
    answers = [ask(server, 3, said) for said in (program(3), program(41))]
    assert [a.choices[0].message.content for a in answers] == [program(4)] * 2
    twice = ask(server, 3, "nothing", "nothing either")
    assert twice.choices[0].message.content == program(3)


# ---- the book -----------------------------------------------------------------------------


def test_the_book_adds_up() -> None:
    faults = dict.fromkeys((*endpoint.REFUSALS, *endpoint.SPOILT), 1 / 16)
    settings = endpoint.Settings(faults=faults, hang=0.001, **PRICES)
    with endpoint.serve(settings) as server:
        for n in range(200):
            with contextlib.suppress(http.client.IncompleteRead):
                send(server, {"messages": question(n)})
        send(server, {"nothing": "asked"})
        stats = until(lambda: (s := server.stats())["in_flight"] == 0 and s)
    assert set(stats["faults"]) == set(faults)
    assert stats["invalid"] == 1
    assert stats["requests"] == 201 == stats["answered"] + sum(stats["faults"].values()) + 1
    billed = stats["answered"] + sum(stats["faults"][k] for k in endpoint.SPOILT)
    assert stats["billed_usd"] == pytest.approx(billed * COST)
    assert stats["billed_input_tokens"] == billed * 1000
    assert (stats["repeated"], stats["abandoned"]) == (0, 0)


def test_cached_input_has_its_own_price() -> None:
    settings = endpoint.Settings(**PRICES, cached_share=0.4, cached_price=0.1)
    with endpoint.serve(settings) as server:
        ask(server)
        assert server.stats()["billed_usd"] == pytest.approx(COST - 400 * 0.9 / 1e6)


def test_the_book_tells_when_each_question_was_answered() -> None:
    body = {"messages": question(5)}
    with endpoint.serve() as server:
        before = time.monotonic()
        for asked in (body, body, {"messages": question(6)}):
            send(server, asked)
        stats = server.stats(questions=True)
        assert "questions" not in server.stats()
    times = stats["questions"][hashlib.sha256(json.dumps(body).encode()).hexdigest()]
    assert before <= times[0] <= times[1] <= time.monotonic()
    assert (len(stats["questions"]), stats["answered"], stats["repeated"]) == (2, 3, 1)


def test_a_caller_that_leaves_is_billed_but_not_answered() -> None:
    with endpoint.serve(endpoint.Settings(latency=60, **PRICES)) as server:
        with hanging(server):
            pass
        stats = server.stats(questions=True)
    assert (stats["answered"], stats["abandoned"], stats["questions"]) == (0, 1, {})
    assert stats["billed_usd"] == pytest.approx(COST)


# ---- batches ------------------------------------------------------------------------------


def rows(*names: str, url: str = "/v1/chat/completions") -> bytes:
    made = [
        {"custom_id": n, "method": "POST", "url": url, "body": {"messages": question(i)}}
        for i, n in enumerate(names)
    ]
    return "".join(json.dumps(row) + "\n" for row in made).encode()


def submit(opened: openai.OpenAI, content: bytes, **metadata: str) -> Any:
    file = opened.files.create(file=("in.jsonl", content), purpose="batch")
    return opened.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata=metadata,
    )


def ended(opened: openai.OpenAI, batch: Any) -> Any:
    going = ("validating", "in_progress", "finalizing")
    return until(lambda: (b := opened.batches.retrieve(batch.id)).status not in going and b)


def read(opened: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    """custom_id -> row."""
    if file_id is None:
        return {}
    lines = opened.files.content(file_id).text.splitlines()
    return {row["custom_id"]: row for row in map(json.loads, lines)}


@contextlib.contextmanager
def batching(**settings: Any) -> Iterator[tuple[Any, openai.OpenAI]]:
    with (
        endpoint.serve(endpoint.Settings(**PRICES, **settings)) as server,
        client(server) as opened,
    ):
        yield server, opened


NAMES = tuple(f"row-{n}" for n in range(20))


def test_a_batch() -> None:
    with batching(batch_seconds=0.1) as (server, opened):
        content = rows(*NAMES)
        made = submit(opened, content, run="first")
        assert (made.object, made.status, made.metadata) == (
            "batch",
            "validating",
            {"run": "first"},
        )
        assert opened.files.content(made.input_file_id).content == content
        assert opened.files.retrieve(made.input_file_id).bytes == len(content)
        batch = ended(opened, made)
        assert (batch.status, batch.error_file_id, batch.errors) == ("completed", None, None)
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (20, 20, 0)
        out = read(opened, batch.output_file_id)
        stats = server.stats(questions=True)
    assert tuple(out) == NAMES
    said = out["row-4"]["response"]["body"]["choices"][0]["message"]["content"]
    assert (said, out["row-4"]["response"]["status_code"]) == (program(4), 200)
    assert out["row-4"]["error"] is None
    assert stats["billed_usd"] == pytest.approx(20 * COST / 2)
    assert (stats["batches"], stats["batch_rows"], stats["batch_rows_answered"]) == (1, 20, 20)
    assert (stats["requests"], stats["questions"]) == (0, {})


def test_batches_are_listed_newest_first() -> None:
    with batching(batch_seconds=60) as (_, opened):
        made = [submit(opened, rows("a"), name=str(n)).id for n in range(5)]
        page = opened.batches.list(limit=2)
        assert [b.id for b in page.data] == [made[4], made[3]]
        assert page.has_more
        assert page.data[0].metadata == {"name": "4"}
        last = opened.batches.list(limit=2, after=made[1])
        assert [b.id for b in last.data] == [made[0]]
        assert not last.has_more
        assert [b.id for b in opened.batches.list(limit=2)] == made[::-1]  # through the pages


def test_part_of_the_first_batch_expires() -> None:
    with batching(batch_expire_share=0.25) as (server, opened):
        batch = ended(opened, submit(opened, rows(*NAMES)))
        assert (batch.status, batch.completed_at) == ("expired", None)
        good, bad = read(opened, batch.output_file_id), read(opened, batch.error_file_id)
        assert (len(good), len(bad)) == (15, 5)
        assert good.keys() | bad.keys() == set(NAMES)
        for row in bad.values():
            assert (row["response"], row["error"]["code"]) == (None, "batch_expired")
        assert server.stats()["billed_usd"] == pytest.approx(15 * COST / 2)
        assert ended(opened, submit(opened, rows(*bad))).status == "completed"


def test_rows_that_fail_succeed_when_sent_again() -> None:
    with batching(batch_row_errors=0.5) as (server, opened):
        batch = ended(opened, submit(opened, rows(*NAMES)))
        good, bad = read(opened, batch.output_file_id), read(opened, batch.error_file_id)
        assert batch.status == "completed"
        assert (batch.request_counts.completed, batch.request_counts.failed) == (
            len(good),
            len(bad),
        )
        assert {row["response"]["status_code"] for row in bad.values()} == {429, 500}
        assert all(row["response"]["body"]["error"]["message"] for row in bad.values())
        again = ended(opened, submit(opened, rows(*bad)))
        assert read(opened, again.output_file_id).keys() == bad.keys()
        assert again.error_file_id is None
        assert server.stats()["billed_usd"] == pytest.approx(20 * COST / 2)


def test_the_first_batch_fails() -> None:
    with batching(batch_fail_first=True) as (server, opened):
        batch = submit(opened, rows(*NAMES))
        assert (batch.status, batch.output_file_id) == ("failed", None)
        assert batch.errors.data[0].code == "invalid_json_line"
        assert ended(opened, submit(opened, rows(*NAMES))).status == "completed"
        assert (server.stats()["batches"], server.stats()["batch_rows"]) == (2, 20)


@pytest.mark.parametrize(
    "content", [b"", b"{nothing\n", rows("a", "a"), rows("a", url="/v1/embeddings")]
)
def test_a_batch_whose_file_is_wrong_fails(server: Any, content: bytes) -> None:
    with client(server) as opened:
        batch = submit(opened, content)
    assert batch.status == "failed"
    assert batch.errors.data


def test_a_batch_of_no_file_is_refused(server: Any) -> None:
    with client(server) as opened, pytest.raises(openai.NotFoundError):
        opened.batches.create(
            input_file_id="file-99", endpoint="/v1/completions", completion_window="24h"
        )


def test_a_batch_is_cancelled() -> None:
    with batching(batch_seconds=60) as (_, opened):
        batch = submit(opened, rows(*NAMES))
        cancelled = opened.batches.cancel(batch.id)
        assert cancelled.status == "cancelled"
        bad = read(opened, cancelled.error_file_id)
        assert {row["error"]["code"] for row in bad.values()} == {"batch_cancelled"}
        assert len(bad) + len(read(opened, cancelled.output_file_id)) == 20
        with pytest.raises(openai.BadRequestError):
            opened.batches.cancel(batch.id)
        assert opened.batches.retrieve(batch.id).status == "cancelled"


# ---- its process --------------------------------------------------------------------------


def closed(url: str) -> bool:
    port = int(url.split(":")[2].removesuffix("/v1"))
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) != 0


def test_it_ends_with_its_block() -> None:
    with endpoint.serve() as server:
        assert not closed(server.url)
    assert closed(server.url)


def test_it_does_not_outlive_a_parent_that_is_killed() -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); import endpoint\n"
        "with endpoint.serve() as s: print(s.url, flush=True); time.sleep(60)"
    )
    folder = str(Path(endpoint.__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", script, folder], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert not closed(url)
        parent.kill()
    until(lambda: closed(url))


def test_the_command_line() -> None:
    options = ["--fault", "rate_limited=1", "--price", "0.25,2.0", "--settings", '{"hang": 5}']
    with subprocess.Popen(
        [sys.executable, endpoint.__file__, *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        server = endpoint.Server(process.stdout.readline().strip(), process.pid)
        with pytest.raises(openai.RateLimitError):
            ask(server)
        server.set(faults={}, input_tokens=1_000_000, output_tokens=0)
        ask(server)
        assert server.stats()["billed_usd"] == pytest.approx(0.25)
        process.terminate()


def test_a_wrong_option_is_told() -> None:
    found = subprocess.run(
        [sys.executable, endpoint.__file__, "--fault", "lightning=1"],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert "lightning" in found.stderr
    assert "Traceback" not in found.stderr
