"""Any OpenAI-compatible endpoint, chat or plain completions, through the openai SDK.

OpenAI, vLLM, SGLang, Ollama, llama.cpp and gateways speak it. A call is one try: the SDK's own
retries are off, and what may succeed the next time is raised as TryAgain, so that every try
passes the limiter and the budget and is counted (``persd.calls``). The key is read from the
environment when the first call is made and is never stored, logged or put in a ledger.

A reply is read as plain JSON, field by field: endpoints differ in all but the outline. Each
thread has a client and a connection of its own, which costs half the CPU time of a shared pool;
when it ends, another takes them over.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from persd.errors import UserError
from persd.models import TryAgain
from persd.money import is_loopback
from persd.records import Completion, Message, Outcome, Request, Usage
from persd.throttle import Throttle, seconds_of

#: Settings that a model may refuse.
_SETTINGS = frozenset({"max_tokens", "temperature", "top_p", "seed"})
#: Characters from which a key is a secret rather than a word that a local server is given.
_SECRET = 16
#: Seconds to reach an endpoint.
_CONNECT = 20.0
#: Questions in a row that are forbidden (403) before the key is at fault and not the questions.
_DENIED = 8
#: Seconds to wait whether other questions are answered, when the first ones are refused.
_AWAIT_OTHERS = 3.0
#: How endpoints say why they stopped, where they do not say it as OpenAI does.
_FINISH = {
    "content_filter": "filtered",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "": "stop",
}


class OpenAIModel:
    """A served model.

    Raises UserError where the key is missing or refused, the account has no money left, or the
    endpoint does not know the model; TryAgain where the next try may be answered.
    """

    batch = 1

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api: Literal["chat", "completions"] = "chat",
        api_key_env: str = "OPENAI_API_KEY",
        in_flight: int = 16,
        timeout: float = 300.0,
        answered: bool = False,
    ) -> None:
        """``timeout``: seconds the endpoint may be silent within a call."""
        self.name = model
        self.throttle = Throttle(in_flight)
        self._base_url, self._api, self._key_env = base_url, api, api_key_env
        self._timeout = timeout
        self.identity: Mapping[str, str] = {
            "model": model,
            "endpoint": base_url or "default",
            "api": api,
        }
        self._clients: list[Any] = []
        self._idle: list[Any] = []
        self._own = threading.local()
        self._lock = threading.Lock()
        self._tls: Any = None
        self._unsupported: frozenset[str] = frozenset()
        self._answered = answered
        self._denied = 0
        """Questions in a row that the key may not ask."""
        self._called: str | None = None
        """The model's name as the endpoint spells it, where that is not the one asked for."""

    @property
    def in_flight(self) -> int:
        return self.throttle.most

    @property
    def where(self) -> str:
        """The endpoint, for messages."""
        return self._base_url or "the OpenAI API"

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._one(r) for r in requests]

    def check(self) -> None:
        """Raise UserError now if the key is missing, before a run has begun; if not, begin to
        load what the first call needs (most of a second), while the run does other things."""
        self._key()
        threading.Thread(target=self._certificates, name="import openai", daemon=True).start()

    def close(self) -> None:
        with self._lock:
            for client in self._clients:
                client.close()
            self._clients.clear()
            # those of threads that have not ended yet are not to be used again
            self._idle, self._own = [], threading.local()

    # -- the connection -------------------------------------------------------------------

    def client(self) -> Any:
        """This thread's ``openai.OpenAI``."""
        if not hasattr(self._own, "lent"):
            try:
                client = self._idle.pop()
            except IndexError:
                client = self._new_client()
            self._own.lent = _Lent(client, self._idle)
        return self._own.lent.client

    def _new_client(self) -> Any:
        import httpx2
        import openai

        timeout = httpx2.Timeout(self._timeout, connect=min(_CONNECT, self._timeout))
        client = openai.OpenAI(
            api_key=self._key(),
            base_url=self._base_url,
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultHttpxClient(verify=self._certificates(), timeout=timeout),
        )
        with self._lock:
            self._clients.append(client)
        return client

    def _certificates(self) -> Any:
        """What all clients check servers by; reading it costs more than a call."""
        import httpx2
        import openai  # noqa: F401

        with self._lock:
            if self._tls is None:
                self._tls = httpx2.create_ssl_context()
        return self._tls

    def _key(self) -> str:
        key = os.environ.get(self._key_env, "").strip()
        if not key and is_loopback(self._base_url):
            return "none-needed"
        if not key:
            raise UserError(
                f"{self.name} needs a key and {self._key_env} is not set",
                where="environment",
                hint=f"export {self._key_env}=..., or name another variable in api_key_env",
            )
        if not (key.isascii() and key.isprintable()):  # the SDK's error would show it
            raise UserError(
                f"{self._key_env} holds characters that no key has",
                where="environment",
                hint=f"export {self._key_env}=..., the key alone",
            )
        return key

    def _without_key(self, text: str) -> str:
        """A text from outside, fit to be kept: some endpoints repeat the key they were given."""
        key = os.environ.get(self._key_env, "").strip()
        return text.replace(key, "***") if len(key) >= _SECRET else text

    def _short(self, error: object) -> str:
        return " ".join(self._without_key(str(error)).split())[:300]

    # -- one try --------------------------------------------------------------------------

    def _one(self, request: Request) -> Completion:
        import openai

        try:
            reply = self._send_supported(request)
        except (
            openai.BadRequestError,
            openai.UnprocessableEntityError,
            openai.PermissionDeniedError,
        ) as e:
            return self._rejected(e)
        except openai.OpenAIError as e:
            raise self.failure(e) from e
        self.throttle.told(reply.headers)
        completion = self._completion(self._without_key(reply.text), request)
        self._answered, self._denied = True, 0
        return completion

    def _rejected(self, error: Any) -> Completion:
        """Whose fault it is that a question is not taken: its own, where others are answered,
        else that of the settings or the key. Before the first answer it is worth waiting for."""
        if not self._answered:
            mend = self._mend(error)
            raise TryAgain("refused", self._short(error), wait=_AWAIT_OTHERS, mend=mend)
        if error.status_code == 403:
            self._denied += 1
            if self._denied >= _DENIED:
                raise self._mend(error)
        return Completion("", finish="rejected", note=self._short(error))

    def _send_supported(self, request: Request) -> Any:
        """Send, and send again without each setting that is refused by name: reasoning models
        take no sampling settings, and say so one at a time."""
        import httpx2
        import openai

        while True:
            try:
                path, body = self.payload(request)
                return self.client().post(path, cast_to=httpx2.Response, body=body)
            except openai.BadRequestError as e:
                # a wrong value of a setting that the model takes is the user's to mend
                unknown = e.code is None or str(e.code).startswith("unsupported")
                if not (unknown and self.refuses(e.param, body)):
                    raise

    def payload(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The path below the base URL and the JSON body that ask this question."""
        settings: dict[str, Any] = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
        }
        if "max_tokens" in self._unsupported:
            settings["max_completion_tokens"] = request.max_tokens
        sent = {k: v for k, v in settings.items() if k not in self._unsupported}
        if self._api == "completions":
            return "/completions", {
                "model": self.name,
                "prompt": _encodable(request.prompt),
                **sent,
            }
        turns = [_turn(m) for m in request.messages]
        return "/chat/completions", {"model": self.name, "messages": turns, **sent}

    def refuses(self, setting: str | None, body: Mapping[str, Any]) -> bool:
        """Whether the model was sent a setting that it takes not, which it then is no more."""
        known = setting is not None and setting in _SETTINGS and setting in body
        if known:
            with self._lock:
                self._unsupported |= {str(setting)}
        return known

    # -- what came back -------------------------------------------------------------------

    def _completion(self, text: str, request: Request) -> Completion:
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError):
            plain = None
        found = self.read(plain, request)
        if found is None:
            raise TryAgain(
                "malformed",
                f"the reply is {text[:80]!r}",
                billed=text.lstrip()[:1] == "{",  # a page in HTML comes from no model
                reply=Completion(text, finish="malformed", usage=Usage(known=False)),
                mend=None if self._answered else self._no_endpoint(text),
            )
        if found.finish in ("empty", "other_model"):
            detail = found.note or f"the reply is {found.finish.replace('_', ' ')}"
            raise TryAgain("unusable", detail, billed=True, reply=found)
        return found

    def read(self, plain: Any, request: Request) -> Completion | None:
        """The completion in a reply's JSON; None: it is not the protocol's.

        ``finish`` is ``stop``, ``length`` (the text is cut), ``filtered``, ``refused``,
        ``empty`` (no choice, or a teacher that says nothing), ``other_model``, or the
        endpoint's own word; only ``stop`` is an answer that may be taken for code.
        """
        if not isinstance(plain, dict) or not isinstance(plain.get("choices"), list):
            return None
        model = plain["model"] if isinstance(plain.get("model"), str) else ""
        usage = usage_of(plain.get("usage"))
        choice = plain["choices"][0] if plain["choices"] else None
        if choice is None:
            return Completion("", "empty", usage, model=model)
        if not isinstance(choice, dict):
            return None
        told = choice.get("message") if self._api == "chat" else choice
        if not isinstance(told, dict):
            return None
        text = _text(told.get("content" if self._api == "chat" else "text"))
        said = choice.get("finish_reason")
        finish = _FINISH.get(said, said) if isinstance(said, str) else "stop"
        refusal = _text(told.get("refusal"))
        if refusal and not text:
            text, finish = refusal, "refused"
        elif not text.strip() and finish == "stop" and request.purpose != "attempt":
            finish = "empty"
        if not self._is_own_name(model):
            note = f"answered by {model}, asked was {self.name}"
            return Completion(text, "other_model", usage, model=model, note=note)
        return Completion(text, finish, usage, model=model)

    def _is_own_name(self, told: str) -> bool:
        """Whether this is how the endpoint spells the model that was asked for.

        The name, with or without its owner and version, or else whatever name the first reply
        gave: local servers name a file. Where a reply has named the model itself, no other
        name will do: a gateway has passed the question on to another model.
        """
        if not told or _same_model(self.name, told):
            self._called = self.name if told else self._called
            return True
        if self._called is None:
            self._called = told
        return told == self._called

    def failure(self, error: Any) -> Exception:
        """What an error of the SDK amounts to: TryAgain, or UserError."""
        import openai

        if isinstance(error, openai.APIStatusError):
            return self._status(error)
        if isinstance(error, openai.APIConnectionError):
            return self._broken(error)
        # the SDK cannot make the call at all
        return UserError(f"{self.name}: {self._short(error)}", where=self.where)

    def _status(self, error: Any) -> Exception:
        status = error.status_code
        wait = _retry_after(error.response.headers)
        if status == 429 and error.code == "insufficient_quota":
            return UserError(
                f"{self.name} refused the call (429): {self._short(error)}",
                where=self.where,
                hint="the account behind the key has no money left; add some, then run it again",
            )
        if status == 429:
            return TryAgain("rate_limited", self._short(error), wait=wait)
        if status in (408, 409, 425) or status >= 500:
            silent = self._api == "chat" and not self._answered
            hint = '; if it is a base model, set api = "completions"' if silent else ""
            return TryAgain("server_error", f"{status}: {self._short(error)}{hint}", wait=wait)
        return self._mend(error)

    def _broken(self, error: Any) -> TryAgain:
        """No whole reply came. What was never sent costs nothing."""
        import httpx2
        import openai

        cause = error.__cause__
        unsent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
        timed_out = isinstance(error, openai.APITimeoutError)
        kind: Outcome = "timeout" if timed_out else "connection"
        detail = (
            f"no answer within {self._timeout:g} s" if timed_out else self._short(cause or error)
        )
        return TryAgain(kind, detail, billed=not unsent)

    def _no_endpoint(self, text: str) -> UserError:
        said = self._short(text)[:80]
        return UserError(
            f"{self.name}: not an OpenAI-compatible endpoint: the reply is {said!r}",
            where=self.where,
            hint="check base_url; it usually ends in /v1",
        )

    def _mend(self, error: Any) -> UserError:
        hints = {
            401: f"check the key in {self._key_env}",
            403: f"check what the key in {self._key_env} may use",
            402: "the account behind the key has no money left; add some, then run it again",
            404: "check model and base_url, which usually ends in /v1",
        }
        hint = hints.get(error.status_code, "check the model's settings in the config")
        return UserError(
            f"{self.name} refused the call ({error.status_code}): {self._short(error)}",
            where=self.where,
            hint=hint,
        )


class _Lent:
    """A client while one thread has it."""

    def __init__(self, client: Any, idle: list[Any]) -> None:
        self.client, self._idle = client, idle

    def __del__(self) -> None:  # the thread has ended
        self._idle.append(self.client)


def _turn(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": _encodable(message.content)}


#: What may follow a model's name and leave it the same model: a date or version.
_VERSION = re.compile(r"[-@:_](latest|main|\d[\d.\-]*|v\d[\w.]*)")


def _same_model(asked: str, told: str) -> bool:
    """Whether two names differ in owner and version at most."""
    short, long = sorted((n.lower().rsplit("/", 1)[-1] for n in (asked, told)), key=len)
    rest = long.removeprefix(short)
    return long.startswith(short) and (not rest or _VERSION.fullmatch(rest) is not None)


def _retry_after(headers: Any) -> float | None:
    """Seconds that an endpoint asks to wait: ``retry-after-ms``, or ``retry-after`` in seconds
    or as a date."""
    from email.utils import parsedate_to_datetime
    from time import time

    in_ms = seconds_of(headers.get("retry-after-ms", ""))
    if in_ms is not None:
        return in_ms / 1000
    told = headers.get("retry-after", "")
    seconds = seconds_of(told)
    if seconds is not None or not told:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return None


def usage_of(told: Any) -> Usage:
    """The tokens in a reply's ``usage``; not known where it does not say."""
    if not isinstance(told, dict):
        return Usage(known=False)
    asked, said = (_count(told.get(n)) for n in ("prompt_tokens", "completion_tokens"))
    if asked is None or said is None:
        return Usage(known=False)
    details = told.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(asked, said, min(cached or 0, asked))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 2**53 else None


def _text(said: Any) -> str:
    """The text of a reply; some endpoints give it as a list of parts."""
    if isinstance(said, list):
        parts = (p.get("text") for p in said if isinstance(p, dict))
        return "".join(p for p in parts if isinstance(p, str))
    return said if isinstance(said, str) else ""


def _encodable(text: str) -> str:
    # an attempt may hold lone surrogates, which JSON over HTTP cannot carry
    return text.encode("utf-8", "backslashreplace").decode()
