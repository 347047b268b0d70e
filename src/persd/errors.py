"""Errors a user can act on.

A ``UserError`` is one line: what happened, where (file:line), and the next thing to do.
The CLI prints it without a traceback and exits with code 2. Everything else that escapes
is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: a bad file, config, key or flag (exit code 2).

    ``what`` says what happened and shows the offending value; ``where`` is ``file:line``
    or a path; ``hint`` is the next command or change to make.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(self.one_line())

    def __reduce__(self) -> tuple[object, ...]:
        # as it was made: it has to reach the process that asked for the work
        return _made, (type(self), self.what, self.where, self.hint), self.__dict__

    def one_line(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        if self.hint:
            line = f"{line}{'' if line.endswith(('.', '?', '!')) else '.'} {self.hint}"
        return " ".join(line.split())


def _made(kind: type[UserError], what: str, where: str, hint: str) -> UserError:
    return kind(what, where=where, hint=hint)


class WorkFailed(Exception):
    """The work itself failed although the input was sound (exit code 1)."""
