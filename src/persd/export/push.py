"""A data set to the Hugging Face Hub, with its card, in one commit.

The token is the one of ``hf auth login`` or of the environment (``HF_TOKEN``); it is read by
``huggingface_hub`` alone and written nowhere. Nothing here loses the local file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from persd.errors import UserError

_LOGIN = "hf auth login, with a token that may write; or set HF_TOKEN"


def check_push(repo: str) -> None:
    """Raise UserError for what can be known to fail before any work is done for it: a missing
    package, a malformed name, no token."""
    hub = _hub()
    try:
        hub.utils.validate_repo_id(repo)
        if "/" not in repo:
            raise ValueError("it names no owner")
    except ValueError as error:
        raise UserError(
            f'"{repo}" is no name of a repository: {error}', hint="--push OWNER/NAME"
        ) from None
    if hub.get_token() is None:
        raise UserError("there is no Hugging Face token to push with", hint=_LOGIN)


def push(data: Path, card: str, repo: str, *, file: str, private: bool) -> str:
    """Upload a data file as ``file`` and its card as README.md; gives the repository's URL.

    The repository is made where there is none; the files take the place of older ones, which
    stay in its history. ``private``: seen by its owner alone. Raises UserError, which says that
    the data set is still there; for a repository that is there and public, too, where it is to
    be private.
    """
    hub = _hub()
    api = hub.HfApi()
    try:
        # None: as the owner has it, which may be private
        url = api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
        if private and not api.repo_info(repo, repo_type="dataset").private:
            raise _Public("it is there already, and anybody can read it")
        api.create_commit(
            repo,
            [
                hub.CommitOperationAdd("README.md", card.encode()),
                hub.CommitOperationAdd(file, str(data)),
            ],
            commit_message=f"{file} by persd",
            repo_type="dataset",
        )
    except (_Public, OSError, ValueError, hub.errors.HTTPError) as error:
        why, hint = _why(error)
        raise UserError(
            f"the push to {repo} failed: {why}; the data set is kept",
            where=str(data),
            hint=hint,
        ) from None
    return str(url)


class _Public(Exception):
    """What is to be private would not be."""


def _why(error: Exception) -> tuple[str, str]:
    """What went wrong and what to do. An error's own text is shown only where it is the Hub's:
    that of a transport may hold the header with the token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the Hub does not know the token (401)", _LOGIN
    if status == 403:
        return "the token may not write there (403)", _LOGIN
    if status is not None:
        said = " ".join(str(getattr(error, "server_message", "") or "").split())
        return f"the Hub answered {status}{': ' + said if said else ''}", "Try again later"
    if isinstance(error, _Public):
        return str(error), "Leave out --private, or --push to another name"
    if isinstance(error, ValueError) and "metadata" in str(error):
        return " ".join(str(error).split()), "Check --license"
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE forbids it", "unset HF_HUB_OFFLINE"
    return f"the Hub was not reached ({type(error).__name__})", "Check the network and HF_ENDPOINT"


def _hub() -> Any:
    try:
        import huggingface_hub
        from huggingface_hub import errors, utils  # noqa: F401
    except ImportError:
        raise UserError(
            "pushing needs the huggingface_hub package", hint="pip install 'persd[train]'"
        ) from None
    return huggingface_hub
