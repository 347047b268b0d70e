"""Any OpenAI-compatible endpoint, chat or plain completions, through the openai SDK.

OpenAI, vLLM, SGLang, Ollama, llama.cpp and gateways speak it. The SDK's own retries are
off: a retry is ours to make, so that it is seen and counted. The key is read from the
environment when the first call is made and is never stored, logged or put in a ledger.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from persd.errors import UserError
from persd.models import ModelUnavailable
from persd.money import is_loopback
from persd.records import Completion, Request, Usage

#: Tries of one call, and the longest it may take with all its waits, in seconds.
TRIES, PATIENCE = 6, 120.0
#: Settings that a model may refuse.
_SETTINGS = frozenset({"max_tokens", "temperature", "top_p", "seed"})
#: Longest one answer may take, in seconds.
TIMEOUT = 300.0


class OpenAIModel:
    """A served model.

    Raises UserError where the key is missing or refused, or the endpoint does not know the
    model; ModelUnavailable where it did not answer within ``TRIES`` tries.
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
        answered: bool = False,
    ) -> None:
        self.name = model
        self.in_flight = in_flight
        self._base_url, self._api, self._key_env = base_url, api, api_key_env
        self.identity: Mapping[str, str] = {
            "model": model,
            "endpoint": base_url or "default",
            "api": api,
        }
        self._client: Any = None
        self._lock = threading.Lock()
        self._unsupported: frozenset[str] = frozenset()
        self._answered = answered

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._one(r) for r in requests]

    def check(self) -> None:
        """Raise UserError now if the key is missing, before a run has begun."""
        self._key()

    def _key(self) -> str:
        key = os.environ.get(self._key_env, "")
        if not key and is_loopback(self._base_url):
            return "none-needed"
        if not key:
            raise UserError(
                f"{self.name} needs a key and {self._key_env} is not set",
                where="environment",
                hint=f"export {self._key_env}=..., or name another variable in api_key_env",
            )
        return key

    def _connect(self) -> Any:
        with self._lock:
            if self._client is None:
                import openai
                import stamina

                # the command line speaks; a library's log lines would break into it
                stamina.instrumentation.set_on_retry_hooks([])
                self._client = openai.OpenAI(
                    api_key=self._key(), base_url=self._base_url, max_retries=0, timeout=TIMEOUT
                )
        return self._client

    def _one(self, request: Request) -> Completion:
        import openai
        import stamina

        client = self._connect()
        again = (
            openai.APIConnectionError,
            openai.RateLimitError,
            openai.InternalServerError,
            openai.ConflictError,
        )
        try:
            for attempt in stamina.retry_context(
                on=again, attempts=TRIES, timeout=PATIENCE, wait_initial=1.0, wait_max=20.0
            ):
                with attempt:
                    return self._ask(client, request)
        except again as e:
            raise ModelUnavailable(f"{self.name}: {_short(e)}") from e
        except (openai.BadRequestError, openai.UnprocessableEntityError) as e:
            # before anything was answered the settings are at fault; later, this one prompt is
            if not self._answered:
                raise self._mend(e) from e
            return Completion("", finish="rejected", note=_short(e))
        except openai.APIStatusError as e:
            raise self._mend(e) from e
        except (ValueError, openai.APIError) as e:  # no JSON, or none of the protocol's
            raise self._no_endpoint(_short(e)) from e
        raise AssertionError("unreachable: the retry context returns or raises")

    def _ask(self, client: Any, request: Request) -> Completion:
        reply = self._send_supported(client, request)
        self._answered = True
        choices = getattr(reply, "choices", ())
        if not isinstance(choices, list):
            raise self._no_endpoint(f"the reply is {_short(str(reply))[:80]!r}")
        model = reply.model if isinstance(reply.model, str) else ""
        if not choices:
            return Completion("", finish="empty", usage=_usage(reply), model=model)
        choice = choices[0]
        said = choice.text if self._api == "completions" else choice.message.content
        finish = choice.finish_reason if isinstance(choice.finish_reason, str) else "stop"
        return Completion(_text(said), finish, _usage(reply), model=model)

    def _send_supported(self, client: Any, request: Request) -> Any:
        """Send, and send again without each setting that is refused by name: reasoning models
        take no sampling settings, and say so one at a time."""
        import openai

        while True:
            try:
                return self._send(client, request)
            except openai.BadRequestError as e:
                if e.param not in _SETTINGS - self._unsupported:
                    raise
                self._unsupported |= {str(e.param)}

    def _send(self, client: Any, request: Request) -> Any:
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
            prompt = _encodable(request.prompt)
            return client.completions.create(model=self.name, prompt=prompt, **sent)
        turns = [{"role": m.role, "content": _encodable(m.content)} for m in request.messages]
        return client.chat.completions.create(model=self.name, messages=turns, **sent)

    def _no_endpoint(self, what: str) -> UserError:
        return UserError(
            f"{self.name}: not an OpenAI-compatible endpoint: {what}",
            where=self._base_url or "the OpenAI API",
            hint="check base_url; it usually ends in /v1",
        )

    def _mend(self, error: Any) -> UserError:
        where = self._base_url or "the OpenAI API"
        hints = {
            401: f"check the key in {self._key_env}",
            403: f"check what the key in {self._key_env} may use",
            404: "check model and base_url",
        }
        hint = hints.get(error.status_code, "check the model's settings in the config")
        return UserError(
            f"{self.name} refused the call ({error.status_code}): {_short(error)}",
            where=where,
            hint=hint,
        )

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _usage(reply: Any) -> Usage:
    told = getattr(reply, "usage", None)
    asked, said = (_count(told, n) for n in ("prompt_tokens", "completion_tokens"))
    if asked is None or said is None:
        return Usage(known=False)
    cached = _count(getattr(told, "prompt_tokens_details", None), "cached_tokens") or 0
    return Usage(asked, said, min(cached, asked))


def _count(told: Any, name: str) -> int | None:
    value = getattr(told, name, None)
    return value if isinstance(value, int) and value >= 0 else None


def _text(said: Any) -> str:
    """The text of a reply; some endpoints give it as a list of parts."""
    if isinstance(said, list):
        parts = (p.get("text") if isinstance(p, dict) else getattr(p, "text", "") for p in said)
        return "".join(p for p in parts if isinstance(p, str))
    return said if isinstance(said, str) else ""


def _encodable(text: str) -> str:
    # an attempt may hold lone surrogates, which JSON over HTTP cannot carry
    return text.encode("utf-8", "backslashreplace").decode()


def _short(error: object) -> str:
    return " ".join(str(error).split())[:300]
