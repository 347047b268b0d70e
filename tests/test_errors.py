"""An error is one line: where, what, the next command."""

from __future__ import annotations

from persd.errors import UserError


def test_one_line() -> None:
    error = UserError("the call\nis no call", where="tasks.jsonl:3", hint="mend it")
    assert error.one_line() == "tasks.jsonl:3: the call is no call. mend it"
    assert str(UserError("really?", hint="yes")) == "really? yes"
    assert str(UserError("plain")) == "plain"
