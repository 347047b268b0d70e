"""OpenAI's Batch API: files of questions, answered within a day at half the price.

Each method is one try of one or few API calls and says what went wrong as a call does: TryAgain
where the next try may succeed, UserError where only the user can mend it. Who tries again, and
what is paid and stored, is ``persd.batches``'.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from persd.errors import UserError
from persd.models import TryAgain
from persd.models.openai_chat import OpenAIModel
from persd.records import Request

#: Rows of a batch at most, and batches under way at most. OpenAI takes 50,000 rows; smaller
#: batches come back sooner.
ROWS, IN_FLIGHT = 2000, 4
#: Bytes of a batch's file at most; OpenAI takes 200 MB, others 100.
MOST_BYTES = 100_000_000
#: Statuses after which a batch does not change any more.
ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
#: Under this name the provider keeps the ledger's key of a batch.
_KEY = "persd"
#: Seconds by which the provider's clock may differ from ours.
_CLOCKS = 86400.0

Json = dict[str, Any]


class BatchModel(OpenAIModel):
    """A served model whose questions are put into batches; alone it is asked as any other."""

    batch = ROWS

    @property
    def in_flight(self) -> int:
        return IN_FLIGHT

    def lines(self, questions: Sequence[tuple[str, Request]]) -> list[bytes]:
        """The lines of a file that asks (call_id, request), as many as it may hold, from the
        first on; one at least."""
        lines: list[bytes] = []
        size = 0
        for key, request in questions:
            path, body = self.payload(request)
            asked = {"custom_id": key, "method": "POST", "url": f"/v1{path}", "body": body}
            lines.append(json.dumps(asked).encode() + b"\n")
            size += len(lines[-1])
            if size > MOST_BYTES and len(lines) > 1:
                return lines[:-1]
        return lines

    def upload(self, lines: Sequence[bytes]) -> str:
        """Upload a file; gives the provider's name for it."""

        def send(client: Any) -> str:
            file = ("persd.jsonl", b"".join(lines))
            reply = client.files.with_raw_response.create(file=file, purpose="batch")
            return str(reply.text)

        why = UserError(
            f"{self.name}: the endpoint has no Batch API (there is no /files)",
            where=self.where,
            hint='set mode = "live"',
        )
        return str(_object(self._call(send, why), "id")["id"])

    def create(self, file: str, path: str, key: str) -> str:
        """Create the batch of an uploaded file; gives the provider's name for it.

        ``path`` is that of all its lines; ``key`` is kept with the batch.
        """

        def send(client: Any) -> str:
            reply = client.batches.with_raw_response.create(
                input_file_id=file,
                endpoint=path,
                completion_window="24h",
                metadata={_KEY: key},
            )
            return str(reply.text)

        return str(_object(self._call(send), "id")["id"])

    def find(self, key: str, since: float) -> str | None:
        """The provider's name for the batch that was created with a key; None: there is none.

        ``since`` is the Unix time before which it was not created.
        """
        after: Json = {}
        while True:

            def send(client: Any, after: Json = after) -> str:
                return str(client.batches.with_raw_response.list(limit=100, **after).text)

            page = _object(self._call(send), "data")
            for told in page["data"]:
                if (told.get("metadata") or {}).get(_KEY) == key:
                    return str(told["id"])
            last = page["data"][-1] if page["data"] else {}
            # the newest come first
            if not page.get("has_more") or last.get("created_at", 0) < since - _CLOCKS:
                return None
            after = {"after": last["id"]}

    def look(self, batch_id: str) -> Json | None:
        """A batch as its provider shows it now; None: it is not known there."""
        import openai

        def send(client: Any) -> str | None:
            try:
                return str(client.batches.with_raw_response.retrieve(batch_id).text)
            except openai.NotFoundError:
                return None

        raw = self._call(send)
        return None if raw is None else _object(raw, "status")

    def results(self, told: Json) -> dict[str, Json]:
        """The lines of an ended batch's files by call_id, answers and errors alike; a broken
        line is none."""
        found: dict[str, Json] = {}
        for name in ("error_file_id", "output_file_id"):
            rows = map(_parsed, self._content(told[name]) if told.get(name) else [])
            found |= {str(r["custom_id"]): r for r in rows if r is not None and "custom_id" in r}
        return found

    def _content(self, file: str) -> list[bytes]:
        """The lines of a file."""

        def send(client: Any) -> bytes:
            return bytes(client.files.with_raw_response.content(file).content)

        return list(self._call(send).splitlines())

    def _call(self, send: Callable[[Any], Any], missing: UserError | None = None) -> Any:
        """What a call gives; ``missing`` is raised where the endpoint has no such path."""
        import openai

        try:
            return send(self.client())
        except openai.APIStatusError as e:
            if missing is not None and e.status_code in (404, 405, 501):
                raise missing from e
            raise self.failure(e) from e
        except openai.OpenAIError as e:
            raise self.failure(e) from e


def _parsed(raw: str | bytes) -> Json | None:
    try:
        plain = json.loads(raw)
    except ValueError:
        return None
    return plain if isinstance(plain, dict) else None


def _object(raw: str, needs: str) -> Json:
    told = _parsed(raw)
    if told is None or needs not in told:
        raise TryAgain("malformed", f"the reply is {raw[:80]!r}")
    return told


def response_of(row: Mapping[str, Any]) -> tuple[int | None, Any]:
    """(HTTP status, body) of a row's result; (None, None): it was not run."""
    response = row.get("response")
    if not isinstance(response, dict):
        return None, None
    status = response.get("status_code")
    return (status if isinstance(status, int) else None), response.get("body")


def error_of(row: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """(code, what happened, setting that it is about) of a row without an answer."""
    status, body = response_of(row)
    error = body.get("error") if isinstance(body, dict) else row.get("error")
    error = error if isinstance(error, dict) else {}
    code = str(error.get("code") or "")
    message = " ".join(str(error.get("message") or code or "no reason given").split())[:300]
    setting = error.get("param")
    told = message if status is None else f"{status}: {message}"
    return code, told, setting if isinstance(setting, str) else None
