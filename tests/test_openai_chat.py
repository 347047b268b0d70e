"""The served model, against a real HTTP server on this machine that plays the endpoint."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import stamina

from persd.errors import UserError
from persd.models import ModelUnavailable
from persd.models.openai_chat import OpenAIModel
from persd.records import Message, Usage
from test_calls import make_request

Reply = tuple[int, dict[str, Any]]


class Endpoint:
    """Answers with what ``reply`` returns for (path, body); remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.raw = ""
        self.reply: Callable[[str, dict[str, Any]], Reply] = lambda path, body: (200, chat("hi"))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append((self.path, body, dict(self.headers)))
                status, answer = outer.reply(self.path, body)
                data = (outer.raw or json.dumps(answer)).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


def chat(text: str, finish: str = "stop") -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "served-name",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }


def failure(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "param": param, "code": None}}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint()
    thread = threading.Thread(target=served.server.serve_forever, daemon=True)
    thread.start()
    with stamina.set_testing(True, attempts=3):  # no waiting between tries
        yield served
    served.server.shutdown()
    served.server.server_close()


def test_a_chat(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    model = OpenAIModel("m", base_url=endpoint.url, api_key_env="MY_KEY")
    (answer,) = model.complete([make_request(1)])
    model.close()
    path, body, headers = endpoint.asked[0]
    assert (answer.text, answer.finish, answer.model) == ("hi", "stop", "served-name")
    assert answer.usage == Usage(7, 3, 4)
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "question 1"}]
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.3, 10, 1)
    assert "Bearer sk-very-secret" in headers.values()
    assert "secret" not in str(dict(model.identity))


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


def test_a_failure_that_passes_is_tried_again(endpoint: Endpoint) -> None:
    replies: list[Reply] = [(429, failure("slow down")), (503, failure("busy")), (200, chat("ok"))]
    endpoint.reply = lambda path, body: replies.pop(0)
    (answer,) = OpenAIModel("m", base_url=endpoint.url).complete([make_request(1)])
    assert answer.text == "ok"


def test_an_endpoint_that_stays_down_is_unavailable(endpoint: Endpoint) -> None:
    endpoint.reply = lambda path, body: (503, failure("busy"))
    with pytest.raises(ModelUnavailable, match="busy"):
        OpenAIModel("m", base_url=endpoint.url).complete([make_request(1)])
    assert len(endpoint.asked) == 3


def test_a_reasoning_models_refusals_are_learnt(endpoint: Endpoint) -> None:
    def reply(path: str, body: dict[str, Any]) -> Reply:
        for name in ("max_tokens", "temperature", "top_p"):
            if name in body:
                return 400, failure(f"unsupported: {name}", name)
        return 200, chat("ok")

    endpoint.reply = reply
    model = OpenAIModel("m", base_url=endpoint.url)
    assert model.complete([make_request(1)])[0].text == "ok"
    asked = len(endpoint.asked)
    assert model.complete([make_request(2)])[0].text == "ok"
    assert len(endpoint.asked) == asked + 1
    assert endpoint.asked[-1][1]["max_completion_tokens"] == 10


def test_one_prompt_that_is_refused_costs_only_itself(endpoint: Endpoint) -> None:
    model = OpenAIModel("m", base_url=endpoint.url)
    assert model.complete([make_request(1)])[0].text == "hi"
    endpoint.reply = lambda path, body: (400, failure("this prompt is not allowed"))
    (answer,) = model.complete([make_request(2)])
    assert (answer.text, answer.finish) == ("", "rejected")
    assert "not allowed" in answer.note


@pytest.mark.parametrize(
    ("status", "says"),
    [(400, "context"), (401, "check the key in OPENAI_API_KEY"), (404, "base_url")],
)
def test_what_only_the_user_can_mend(endpoint: Endpoint, status: int, says: str) -> None:
    endpoint.reply = lambda path, body: (status, failure("wrong context"))
    with pytest.raises(UserError, match=says):
        OpenAIModel("m", base_url=endpoint.url).complete([make_request(1)])


def test_an_empty_answer_is_named(endpoint: Endpoint) -> None:
    endpoint.reply = lambda path, body: (200, {**chat("x"), "choices": []})
    (answer,) = OpenAIModel("m", base_url=endpoint.url).complete([make_request(1)])
    assert (answer.text, answer.finish) == ("", "empty")


def test_a_missing_key_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=r"OPENAI_API_KEY is not set.*export OPENAI_API_KEY"):
        OpenAIModel("gpt-5-mini").check()


@pytest.mark.parametrize("body", ["<html>hello</html>", '"text"', "[1]", "{}", "null"])
def test_what_is_no_endpoint_is_said(endpoint: Endpoint, body: str) -> None:
    endpoint.raw = body
    with pytest.raises(UserError, match=r"not an OpenAI-compatible endpoint.*/v1"):
        OpenAIModel("m", base_url=endpoint.url).complete([make_request(1)])


def test_a_reply_without_usage_has_an_unknown_cost(endpoint: Endpoint) -> None:
    reply = {k: v for k, v in chat("hi").items() if k != "usage"}
    endpoint.reply = lambda path, body: (200, reply)
    (answer,) = OpenAIModel("m", base_url=endpoint.url).complete([make_request(1)])
    assert not answer.usage.known


def test_a_reply_in_parts_is_joined(endpoint: Endpoint) -> None:
    reply = chat("")
    reply["choices"][0]["message"]["content"] = [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    endpoint.reply = lambda path, body: (200, reply)
    assert OpenAIModel("m", base_url=endpoint.url).complete([make_request(1)])[0].text == "ab"


def test_lone_surrogates_do_not_stop_a_call(endpoint: Endpoint) -> None:
    asked = make_request(1, messages=(Message("user", "an attempt: \ud800"),))
    assert OpenAIModel("m", base_url=endpoint.url).complete([asked])[0].text == "hi"
