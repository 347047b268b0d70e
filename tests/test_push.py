"""A data set pushed to a Hub on this machine: what arrives, what is refused, what is never lost."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import DatasetCard, constants

from persd.errors import UserError
from persd.export import export, publish
from persd.export.formats import DataSet
from persd.export.of_run import build_run
from persd.export.push import check_push
from persd.progress import QUIET
from test_cli import persd
from test_export import a_run, a_set, lines

TOKEN = "hf_thisIsTheSecretTokenOfATest"
REPO = "somebody/pairs"


class FakeHub(ThreadingHTTPServer):
    """As much of the Hub as an upload of small files needs; ``refuse``: its status and words
    wherever the path begins so."""

    def __init__(self, refuse: tuple[int, str] | None = None, path: str = "/") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refuse, self.path = refuse, path
        self.repos: dict[str, bool] = {}
        """By name, whether it is private."""
        self.commits: list[dict[str, bytes]] = []
        self.tokens = set[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/datasets/")
        if name in self.server.repos:
            self._answer(200, {"id": name, "private": self.server.repos[name]})
        else:
            self._answer(404, {"error": "Repository not found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.server.refuse and self.path.startswith(self.server.path):
            status, why = self.server.refuse
            self._answer(status, {"error": why, "errors": [{"message": why}]})
        else:
            self._answer(*self._of(self.path, body))

    def _of(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        hub = self.server
        if path == "/api/repos/create":
            asked = json.loads(body)
            assert asked["type"] == "dataset"
            name = f"{asked['organization']}/{asked['name']}"
            is_private = asked.get("private") or asked.get("visibility") == "private"
            status = 409 if name in hub.repos else 200
            hub.repos.setdefault(name, bool(is_private))
            return status, {"url": f"{hub.url}/datasets/{name}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == f"/api/datasets/{REPO}/preupload/main":
            kinds = {"uploadMode": "regular", "shouldIgnore": False}
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], **kinds} for f in asked]}
        assert path == f"/api/datasets/{REPO}/commit/main"
        parts = [json.loads(line) for line in body.splitlines()]
        files = {p["value"]["path"]: p["value"]["content"] for p in parts if p["key"] == "file"}
        hub.commits.append({path: base64.b64decode(text) for path, text in files.items()})
        where = f"{hub.url}/datasets/{REPO}/commit/{'0' * 40}"
        return 200, {"commitUrl": where, "commitOid": "0" * 40, "success": True}

    def _answer(self, status: int, found: dict[str, Any]) -> None:
        text = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("push"))


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub()) as served:
        yield served


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pushing from this process, with a token; ``reach`` says to which Hub."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return monkeypatch


def reach(patch: pytest.MonkeyPatch, url: str) -> None:
    patch.setattr(constants, "ENDPOINT", url)


DATA = a_set(["p\u2028", "q"], ["c", "2020-01-01"], ["r", "r"])


def push(folder: Path, data: DataSet = DATA, fmt: str = "trl", **more: Any) -> str:
    export(data, fmt, folder / "d")
    return publish(data, fmt, folder / "d", REPO, **more)


def test_the_command_pushes_what_it_wrote(run: Path, tmp_path: Path, hub: FakeHub) -> None:
    out = tmp_path / "out" / "data.jsonl"
    done = persd(
        "build", run, "--variant", "persd", "--out", out, "--license", "mit",
        "--push", REPO, "--private", "--json",
        env={
            "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pushed"] == f"{hub.url}/datasets/{REPO}"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert hub.repos == {REPO: True}
    (commit,) = hub.commits
    assert set(commit) == {"README.md", "data/train.jsonl"}
    assert commit["data/train.jsonl"] == out.read_bytes()
    assert len(lines(out)) == 7
    card = DatasetCard(commit["README.md"].decode()).data
    assert card["license"] == "mit"
    assert card["configs"][0]["data_files"] == [{"split": "train", "path": "data/train.jsonl"}]
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    kept = b"".join(p.read_bytes() for p in run.rglob("*") if p.is_file())
    said = (done.stdout + done.stderr).encode()
    assert TOKEN.encode() not in written + kept + said + b"".join(commit.values())


@pytest.mark.parametrize("fmt", ["trl", "messages", "kto", "parquet"])
def test_what_arrives_is_read_as_its_card_says(
    tmp_path: Path, ask: pytest.MonkeyPatch, hub: FakeHub, fmt: str
) -> None:
    datasets = pytest.importorskip("datasets")
    reach(ask, hub.url)
    push(tmp_path, DATA, fmt)
    there = tmp_path / "there"
    for name, content in hub.commits[0].items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(content)
    read = datasets.load_dataset(str(there), split="train", cache_dir=str(tmp_path / "cache"))
    local = (lines if fmt != "parquet" else _parquet)(tmp_path / "d")
    assert list(read) == local


def _parquet(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return list(parquet.read_table(path).to_pylist())


def test_pushed_again_it_takes_the_place_of_the_old(
    tmp_path: Path, ask: pytest.MonkeyPatch, hub: FakeHub
) -> None:
    reach(ask, hub.url)
    push(tmp_path)
    push(tmp_path, a_set(["second"], ["y"], ["z"]))
    assert [b"second" in c["data/train.jsonl"] for c in hub.commits] == [False, True]
    assert hub.repos == {REPO: False}


def test_what_is_to_be_private_is_not_pushed_where_anybody_can_read_it(
    tmp_path: Path, ask: pytest.MonkeyPatch, hub: FakeHub
) -> None:
    reach(ask, hub.url)
    hub.repos[REPO] = False
    with pytest.raises(UserError, match="anybody can read it") as told:
        push(tmp_path, private=True)
    _kept(tmp_path, told.value, "--private")
    assert hub.commits == []


@pytest.mark.parametrize(
    ("status", "why", "hint"),
    [(401, "does not know the token", "hf auth login"), (403, "may not write", "hf auth login"),
     (400, "it is full", "later")],
)  # fmt: skip
def test_a_refusal_is_told_and_the_file_kept(
    tmp_path: Path, ask: pytest.MonkeyPatch, status: int, why: str, hint: str
) -> None:
    with serving(FakeHub((status, "it is full"))) as hub:
        reach(ask, hub.url)
        with pytest.raises(UserError, match=why) as told:
            push(tmp_path)
    _kept(tmp_path, told.value, hint)


def test_a_licence_that_the_hub_does_not_know_is_told(
    tmp_path: Path, ask: pytest.MonkeyPatch
) -> None:
    with serving(FakeHub((400, "license must be one of ..."), "/api/validate-yaml")) as hub:
        reach(ask, hub.url)
        with pytest.raises(UserError, match="license must be one of") as told:
            push(tmp_path, license="zzz")
    _kept(tmp_path, told.value, "--license")
    assert hub.commits == []


def test_a_hub_that_is_not_there_is_told_and_the_file_kept(
    tmp_path: Path, ask: pytest.MonkeyPatch
) -> None:
    reach(ask, "http://127.0.0.1:9")
    with pytest.raises(UserError, match="not reached") as told:
        push(tmp_path)
    _kept(tmp_path, told.value, "network")
    ask.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE") as told:
        push(tmp_path)
    _kept(tmp_path, told.value, "unset")


def test_a_broken_token_is_not_shown(tmp_path: Path, ask: pytest.MonkeyPatch, hub: FakeHub) -> None:
    reach(ask, hub.url)
    ask.setenv("HF_TOKEN", f"{TOKEN}é")
    with pytest.raises(UserError) as told:
        push(tmp_path)
    _kept(tmp_path, told.value, "")


def _kept(folder: Path, told: UserError, hint: str) -> None:
    """The data set is there, the error says where, and nothing tells the token."""
    assert told.where == str(folder / "d")
    assert hint in told.hint
    assert "the data set is kept" in told.what
    assert TOKEN not in told.one_line()
    assert len(lines(folder / "d")) == 2
    assert sorted(p.name for p in folder.iterdir()) == ["d", "d.md"]


@pytest.mark.parametrize("name", ["pairs", "a/b/c", "some body/pairs", "a--b/c", "", "/x", "../x"])
def test_a_malformed_name_is_refused(ask: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(UserError, match="no name of a repository"):
        check_push(name)


def test_without_a_token_nothing_is_begun(
    run: Path, tmp_path: Path, ask: pytest.MonkeyPatch
) -> None:
    ask.delenv("HF_TOKEN")
    ask.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    ask.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "tokens"))
    with pytest.raises(UserError, match="hf auth login"):
        build_run(run, "persd", "trl", tmp_path / "d", None, False, QUIET, repo=REPO)
    assert list(tmp_path.iterdir()) == []


def test_nobody_is_asked_unless_it_is_pushed(
    tmp_path: Path, ask: pytest.MonkeyPatch, hub: FakeHub
) -> None:
    reach(ask, hub.url)
    export(DATA, "trl", tmp_path / "d")
    assert hub.tokens == set()
