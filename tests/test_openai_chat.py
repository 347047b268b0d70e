"""The served model, against a real HTTP server on this machine that plays the endpoint."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import time
from typing import Any

import pytest

from persd.calls import Answer, Asker, Retry
from persd.errors import UserError
from persd.ledger import Ledger
from persd.models import TryAgain
from persd.models.openai_chat import OpenAIModel
from persd.money import Price
from persd.records import Message, Usage
from test_calls import make_request

Reply = tuple[int, dict[str, Any]]

KEY = "sk-very-secret-0123456789"


class Endpoint:
    """Answers with what ``reply`` returns for (path, body); remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.raw = ""
        self.headers: dict[str, str] = {}
        self.cut = False
        self.open, self.opened = 0, 0
        self.reply: Callable[[str, dict[str, Any]], Reply] = lambda path, body: (200, chat("hi"))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.opened += 1

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append((self.path, body, dict(self.headers)))
                status, answer = outer.reply(self.path, body)
                data = (outer.raw or json.dumps(answer)).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if outer.cut else data)
                self.close_connection = outer.cut

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # whoever asked has gone: that is what some tests are about

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


def chat(text: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "served-name",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }


def failure(message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "param": param, "code": code}}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint()
    poll = {"poll_interval": 0.01}
    thread = threading.Thread(target=served.server.serve_forever, kwargs=poll, daemon=True)
    thread.start()
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def model(endpoint: Endpoint) -> Iterator[OpenAIModel]:
    opened = OpenAIModel("m", base_url=endpoint.url)
    yield opened
    opened.close()


def try_again(model: OpenAIModel, **change: object) -> TryAgain:
    """The reason why one question has no answer yet."""
    with pytest.raises(TryAgain) as found:
        model.complete([make_request(1, **change)])
    return found.value


def ask(model: OpenAIModel, ledger: Ledger, count: int = 1, **retry: Any) -> list[Answer]:
    """Answers to questions that are tried again without waiting."""
    price = Price(1.0, 1.0)
    asker = Asker(model, "teacher", ledger, price, retry=Retry(first=0.0, **retry))
    return list(asker.complete(make_request(i) for i in range(count)))


# -- what is sent -------------------------------------------------------------------------------


def test_a_chat(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    model = OpenAIModel("m", base_url=endpoint.url, api_key_env="MY_KEY")
    (answer,) = model.complete([make_request(1)])
    model.close()
    path, body, headers = endpoint.asked[0]
    assert (answer.text, answer.finish, answer.model) == ("hi", "stop", "served-name")
    assert answer.usage == Usage(7, 3, 4)
    assert path == "/v1/chat/completions"
    assert body["model"] == "m"
    assert body["messages"] == [{"role": "user", "content": "question 1"}]
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.3, 10, 1)
    assert f"Bearer {KEY}" in headers.values()


def test_plain_completions(endpoint: Endpoint) -> None:
    reply = {
        "id": "1",
        "object": "text_completion",
        "created": 1,
        "model": "base",
        "choices": [
            {"index": 0, "finish_reason": "length", "text": "    return", "logprobs": None}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    endpoint.reply = lambda path, body: (200, reply)
    (answer,) = OpenAIModel("m", base_url=endpoint.url, api="completions").complete(
        [make_request(1)]
    )
    assert (answer.text, answer.finish) == ("    return", "length")
    assert endpoint.asked[0][0] == "/v1/completions"
    assert endpoint.asked[0][1]["prompt"] == "question 1"


def test_lone_surrogates_do_not_stop_a_call(endpoint: Endpoint, model: OpenAIModel) -> None:
    asked = make_request(1, messages=(Message("user", "an attempt: \ud800"),))
    assert model.complete([asked])[0].text == "hi"


def refusing(*names: str) -> Callable[[str, dict[str, Any]], Reply]:
    """An endpoint that takes none of these settings, and names one at a time."""

    def reply(path: str, body: dict[str, Any]) -> Reply:
        for name in names:
            if name in body:
                return 400, failure(f"unsupported: {name}", name)
        return 200, chat("ok")

    return reply


def test_a_reasoning_models_refusals_are_learnt(endpoint: Endpoint, model: OpenAIModel) -> None:
    endpoint.reply = refusing("max_tokens", "temperature", "top_p")
    assert model.complete([make_request(1)])[0].text == "ok"
    asked = len(endpoint.asked)
    assert model.complete([make_request(2)])[0].text == "ok"
    assert len(endpoint.asked) == asked + 1
    assert endpoint.asked[-1][1]["max_completion_tokens"] == 10


def test_refusals_are_learnt_by_all_who_meet_them_at_once(
    endpoint: Endpoint, model: OpenAIModel
) -> None:
    refused, together = refusing("temperature"), threading.Barrier(2, timeout=10)

    def reply(path: str, body: dict[str, Any]) -> Reply:
        if "temperature" in body:
            together.wait()  # both are told only once both have asked
        return refused(path, body)

    endpoint.reply = reply
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda n: model.complete([make_request(n)]), range(2)))
    assert [a.text for (a,) in answers] == ["ok", "ok"]
    assert len(endpoint.asked) == 4


def test_a_thread_that_ends_leaves_its_connection_to_others(endpoint: Endpoint) -> None:
    model = OpenAIModel("m", base_url=endpoint.url)
    for n in range(5):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda n: model.complete([make_request(n)]), range(n, n + 4)))
    assert len(endpoint.asked) == 20
    assert endpoint.opened <= 2
    model.close()
    model.close()


# -- what may succeed the next time -------------------------------------------------------------


def test_a_failure_that_passes_is_tried_again(
    endpoint: Endpoint, model: OpenAIModel, ledger: Ledger
) -> None:
    replies: list[Reply] = [(429, failure("slow down")), (503, failure("busy")), (200, chat("ok"))]
    endpoint.reply = lambda path, body: replies.pop(0)
    (answer,) = ask(model, ledger)
    assert answer.completion is not None
    assert answer.completion.text == "ok"
    assert [t.outcome for t in ledger.tries()] == ["rate_limited", "server_error"]
    assert all(t.usd == 0.0 for t in ledger.tries())


def test_an_endpoint_that_stays_down_is_unavailable(
    endpoint: Endpoint, model: OpenAIModel, ledger: Ledger
) -> None:
    endpoint.reply = lambda path, body: (503, failure("busy"))
    (answer,) = ask(model, ledger, tries=3)
    assert answer.missing == "unavailable"
    assert "busy" in answer.detail
    assert "after 3 tries" in answer.detail
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"retry-after": "7"}, 7, 7),
        ({"retry-after": "1.5"}, 1.5, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25, 0.25),
        ({"retry-after": "<a minute from now>"}, 30, 60),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0, 0),
    ],
)
def test_the_wait_an_endpoint_asks_for_is_read(
    endpoint: Endpoint, model: OpenAIModel, headers: dict[str, str], low: float, high: float
) -> None:
    if headers["retry-after"].startswith("<"):
        headers = {"retry-after": formatdate(time() + 60, usegmt=True)}
    endpoint.reply, endpoint.headers = (lambda path, body: (429, failure("wait"))), headers
    found = try_again(model)
    assert found.kind == "rate_limited"
    assert not found.billed
    assert found.wait is not None
    assert low <= found.wait <= high


@pytest.mark.parametrize("told", ["", "soon", "-3", "nan", "99999999999999999999999 GMT"])
def test_a_wait_that_is_none_is_none(endpoint: Endpoint, model: OpenAIModel, told: str) -> None:
    endpoint.reply = lambda path, body: (429, failure("wait"))
    endpoint.headers = {"retry-after": told}
    assert try_again(model).wait is None


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
def test_trouble_at_the_endpoint_is_tried_again_and_costs_nothing(
    endpoint: Endpoint, model: OpenAIModel, status: int
) -> None:
    endpoint.reply = lambda path, body: (status, failure("oh"))
    found = try_again(model)
    assert (found.kind, found.billed) == ("server_error", False)
    assert "oh" in str(found)


def test_no_money_is_for_the_user_to_mend(endpoint: Endpoint, model: OpenAIModel) -> None:
    endpoint.reply = lambda path, body: (429, failure("no quota", code="insufficient_quota"))
    with pytest.raises(UserError, match="no money left"):
        model.complete([make_request(1)])
    assert len(endpoint.asked) == 1


def test_no_answer_in_time_may_be_billed(endpoint: Endpoint) -> None:
    asked_to_end = threading.Event()

    def reply(path: str, body: dict[str, Any]) -> Reply:
        asked_to_end.wait(10)
        return 200, chat("late")

    endpoint.reply = reply
    found = try_again(OpenAIModel("m", base_url=endpoint.url, timeout=0.2))
    asked_to_end.set()
    assert (found.kind, found.billed) == ("timeout", True)
    assert "0.2 s" in str(found)


def test_an_endpoint_that_is_not_there_bills_nothing() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        found = try_again(OpenAIModel("m", base_url=url))
    assert (found.kind, found.billed) == ("connection", False)
    assert "refused" in str(found)


def test_a_reply_that_breaks_off_may_be_billed(endpoint: Endpoint, model: OpenAIModel) -> None:
    endpoint.cut = True
    found = try_again(model)
    assert (found.kind, found.billed) == ("connection", True)
    endpoint.cut = False
    assert model.complete([make_request(1)])[0].text == "hi"


@pytest.mark.parametrize("depth", [0, 200_000])
def test_a_reply_that_is_no_json_is_kept(
    endpoint: Endpoint, model: OpenAIModel, depth: int
) -> None:
    endpoint.raw = '{"choices": ' + "[" * depth
    found = try_again(model)
    assert (found.kind, found.billed) == ("malformed", True)
    assert found.reply is not None
    assert found.reply.text == endpoint.raw
    assert not found.reply.usage.known


def test_no_choice_is_no_answer_and_is_paid_for(endpoint: Endpoint, model: OpenAIModel) -> None:
    endpoint.reply = lambda path, body: (200, {**chat("x"), "choices": []})
    found = try_again(model)
    assert (found.kind, found.billed) == ("unusable", True)
    assert found.reply is not None
    assert (found.reply.finish, found.reply.usage) == ("empty", Usage(7, 3, 4))


@pytest.mark.parametrize("text", ["", " \n", None])
def test_a_teacher_that_says_nothing_is_asked_again(
    endpoint: Endpoint, model: OpenAIModel, text: str | None
) -> None:
    endpoint.reply = lambda path, body: (200, chat(text))
    assert try_again(model, purpose="refinement").kind == "unusable"
    (attempt,) = model.complete([make_request(1)])  # of a student it is an attempt
    assert (attempt.text.strip(), attempt.finish) == ("", "stop")


# -- what is an answer --------------------------------------------------------------------------


def test_a_refusal_is_an_answer(endpoint: Endpoint, model: OpenAIModel) -> None:
    endpoint.reply = lambda path, body: (200, chat(None, refusal="I cannot help with that."))
    (answer,) = model.complete([make_request(1, purpose="refinement")])
    assert (answer.text, answer.finish) == ("I cannot help with that.", "refused")


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ("content_filter", "filtered"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("end_turn", "stop"),
        ("tool_calls", "tool_calls"),
    ],
)
def test_why_it_stopped_is_told(
    endpoint: Endpoint, model: OpenAIModel, said: str, finish: str
) -> None:
    endpoint.reply = lambda path, body: (200, chat("half", said))
    (answer,) = model.complete([make_request(1, purpose="refinement")])
    assert (answer.text, answer.finish) == ("half", finish)


def test_a_filtered_answer_without_text_is_one(endpoint: Endpoint, model: OpenAIModel) -> None:
    endpoint.reply = lambda path, body: (200, chat("", "content_filter"))
    (answer,) = model.complete([make_request(1, purpose="refinement")])
    assert (answer.text, answer.finish) == ("", "filtered")


def test_a_reply_in_parts_is_joined(endpoint: Endpoint, model: OpenAIModel) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    endpoint.reply = lambda path, body: (200, chat(parts))  # type: ignore[arg-type]
    assert model.complete([make_request(1)])[0].text == "ab"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": "7", "completion_tokens": 1},
        {"prompt_tokens": 10**30, "completion_tokens": 1},
    ],
)
def test_a_reply_without_sound_usage_has_an_unknown_cost(
    endpoint: Endpoint, model: OpenAIModel, ledger: Ledger, usage: Any
) -> None:
    endpoint.reply = lambda path, body: (200, {**chat("hi"), "usage": usage})
    (answer,) = ask(model, ledger)
    assert answer.completion is not None
    assert not answer.completion.usage.known
    stored = ledger.completion(answer.call_id)
    assert stored is not None
    assert stored.usd is None


def named(endpoint: Endpoint, *names: str) -> None:
    """Let the endpoint sign its replies with these names, one after the other."""
    left = list(names)
    endpoint.reply = lambda path, body: (200, {**chat("hi"), "model": left.pop(0)})


@pytest.mark.parametrize(
    "told",
    ["gpt-5-mini-2025-08-07", "gpt-5-mini", "openai/gpt-5-mini", "GPT-5-mini", "gpt-5-mini:latest"],
)
def test_a_models_name_with_its_version_is_its_own(endpoint: Endpoint, told: str) -> None:
    model = OpenAIModel("gpt-5-mini", base_url=endpoint.url, api_key_env="NO_KEY")
    named(endpoint, "gpt-5-mini", told)
    assert [model.complete([make_request(n)])[0].model for n in range(2)] == ["gpt-5-mini", told]


@pytest.mark.parametrize("told", ["gpt-5", "gpt-5-nano", "gpt-5-mini-high", "another"])
def test_another_models_answer_is_none(endpoint: Endpoint, told: str) -> None:
    model = OpenAIModel("gpt-5-mini", base_url=endpoint.url, api_key_env="NO_KEY")
    named(endpoint, "gpt-5-mini-2025-08-07", told)
    model.complete([make_request(1)])
    found = try_again(model)
    assert (found.kind, found.billed) == ("unusable", True)
    assert f"answered by {told}, asked was gpt-5-mini" in str(found)
    assert found.reply is not None
    assert (found.reply.text, found.reply.model) == ("hi", told)


def test_a_server_that_names_a_file_is_known_by_that_name(endpoint: Endpoint) -> None:
    model = OpenAIModel("mine", base_url=endpoint.url)
    named(endpoint, "models/q4.gguf", "models/q4.gguf", "models/other.gguf", "mine", "models/q4")
    assert model.complete([make_request(1)])[0].model == "models/q4.gguf"
    assert model.complete([make_request(1)])[0].model == "models/q4.gguf"
    assert try_again(model).kind == "unusable"
    assert model.complete([make_request(1)])[0].model == "mine"
    assert try_again(model).kind == "unusable"  # it has named the model itself


# -- what only the user can mend ----------------------------------------------------------------


def test_one_prompt_that_is_refused_costs_only_itself(
    endpoint: Endpoint, model: OpenAIModel
) -> None:
    assert model.complete([make_request(1)])[0].text == "hi"
    endpoint.reply = lambda path, body: (400, failure("this prompt is not allowed"))
    (answer,) = model.complete([make_request(2)])
    assert (answer.text, answer.finish) == ("", "rejected")
    assert "not allowed" in answer.note


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_question_refused_before_the_first_answer_waits_for_others(
    endpoint: Endpoint,
    model: OpenAIModel,
    ledger: Ledger,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("persd.models.openai_chat._AWAIT_OTHERS", 0.0)
    endpoint.reply = lambda path, body: (status, failure("flagged by moderation"))
    refused = try_again(model)
    assert (refused.kind, refused.billed) == ("refused", False)
    with pytest.raises(UserError, match=rf"refused the call \({status}\): .*flagged"):
        ask(model, ledger, tries=9)
    endpoint.reply = lambda path, body: (200, chat("hi"))
    assert model.complete([make_request(1)])[0].text == "hi"
    endpoint.reply = lambda path, body: (status, failure("flagged by moderation"))
    assert model.complete([make_request(2)])[0].finish == "rejected"


def test_a_key_that_is_taken_away_is_told(endpoint: Endpoint, model: OpenAIModel) -> None:
    assert model.complete([make_request(1)])[0].text == "hi"
    endpoint.reply = lambda path, body: (403, failure("no longer"))
    with pytest.raises(UserError, match="what the key in OPENAI_API_KEY may use"):
        [model.complete([make_request(n)]) for n in range(20)]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "check the key in OPENAI_API_KEY"),
        (402, "no money left"),
        (404, r"base_url, which usually ends in /v1"),
    ],
)
def test_what_only_the_user_can_mend(
    endpoint: Endpoint, model: OpenAIModel, status: int, says: str
) -> None:
    endpoint.reply = lambda path, body: (status, failure("wrong context"))
    with pytest.raises(UserError, match=says):
        model.complete([make_request(1)])


@pytest.mark.parametrize("body", ["<html>hello</html>", '"text"', "[1]", "{}", "null"])
def test_what_is_no_endpoint_is_said(
    endpoint: Endpoint, model: OpenAIModel, ledger: Ledger, body: str
) -> None:
    endpoint.raw = body
    with pytest.raises(UserError, match=r"not an OpenAI-compatible endpoint") as found:
        ask(model, ledger, tries=2)
    line = found.value.one_line()
    assert endpoint.url in line
    assert "/v1" in line
    assert "\n" not in line


def test_a_page_in_place_of_one_reply_is_a_try_like_others(
    endpoint: Endpoint, model: OpenAIModel, ledger: Ledger
) -> None:
    model.complete([make_request(0)])
    endpoint.raw = "<html>be right back</html>"
    (answer,) = ask(model, ledger, tries=2)
    assert answer.missing == "unavailable"
    assert [t.text for t in ledger.tries()] == [endpoint.raw] * 2


# -- the key ------------------------------------------------------------------------------------


def test_a_missing_key_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=r"OPENAI_API_KEY is not set.*export OPENAI_API_KEY"):
        OpenAIModel("gpt-5-mini").check()


def test_a_line_end_after_the_key_is_no_part_of_it(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    OpenAIModel("m", base_url=endpoint.url, api_key_env="MY_KEY").complete([make_request(1)])
    assert f"Bearer {KEY}" in endpoint.asked[0][2].values()


@pytest.mark.parametrize("key", ["sk-\u00e9\u00e8-0123456789", "sk-one\nsk-two-0123456789"])
def test_what_is_no_key_is_said_and_not_shown(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(UserError, match="MY_KEY") as found:
        OpenAIModel("m", base_url=endpoint.url, api_key_env="MY_KEY").complete([make_request(1)])
    assert "0123456789" not in str(found.value)
    assert not endpoint.asked


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500])
def test_the_key_is_kept_nowhere_even_if_it_is_repeated_to_us(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, ledger: Ledger, status: int
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    model = OpenAIModel("m", base_url=endpoint.url, api_key_env="MY_KEY")
    model.complete([make_request(0)])
    said = f"you said Bearer {KEY}"
    endpoint.reply = lambda path, body: (status, chat(said) if status == 200 else failure(said))
    try:
        shown = repr(ask(model, ledger, tries=2, patience=0.0))
    except UserError as e:
        shown = str(e)
    kept = [
        tuple(row) for table in ("calls", "tries") for row in ledger.query(f"SELECT * FROM {table}")
    ]
    assert kept
    assert KEY not in shown
    assert KEY not in repr(kept)
    assert KEY not in str(dict(model.identity))
    assert "you said" in shown + repr(kept)


def test_a_word_for_a_local_server_is_no_secret(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "x")
    endpoint.reply = lambda path, body: (200, chat("    return x * 2"))
    model = OpenAIModel("m", base_url=endpoint.url, api_key_env="MY_KEY")
    assert model.complete([make_request(1)])[0].text == "    return x * 2"
