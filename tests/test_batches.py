"""Batches: half the price, every row accounted for, nothing paid twice, whatever is killed."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from persd import batches as batches_module
from persd import session as session_module
from persd.batches import Batches, affordable
from persd.calls import Answer, Asker, Retry, call_id
from persd.config import Config
from persd.errors import UserError
from persd.ledger import Ledger
from persd.loop import collect
from persd.models import TryAgain
from persd.models.openai_batch import BatchModel
from persd.money import Budget, Price, price_of
from persd.pool.of_run import load_pool
from persd.records import Request
from persd.run import Run
from test_calls import make_request
from test_kill import load_bench

endpoint, kill = load_bench("endpoint"), load_bench("kill")
PRICE = Price(1.0, 2.0)
HALF = PRICE.times(0.5)
PAUSES = (0.02, 0.05)


@pytest.fixture
def server() -> Iterator[Any]:
    with endpoint.serve(endpoint.Settings(input_price=1.0, output_price=2.0)) as running:
        yield running


def questions(count: int, first: int = 0) -> list[Request]:
    return [make_request(n, purpose="refinement", max_tokens=99) for n in range(first, count)]


def make_asker(
    ledger: Ledger, model: BatchModel, cap: float | None = None, spent: float = 0.0
) -> tuple[Asker, list[str]]:
    """An asker in batches, and what it says."""
    said: list[str] = []
    return (
        Asker(
            model,
            "teacher",
            ledger,
            HALF,
            Budget(cap, spent),
            Retry(tries=3, unusable=2, first=0.01),
            batches=Batches(model, said.append, PAUSES),
        ),
        said,
    )


def served(ledger: Ledger, server: Any, cap: float | None = None, spent: float = 0.0) -> Asker:
    return make_asker(ledger, BatchModel("fake", base_url=server.url), cap, spent)[0]


def at_risk(ledger: Ledger) -> float:
    """What the ledger says was spent, of what is under way the most it can cost."""
    tries = ledger.tries(role="teacher")
    return ledger.spent(role="teacher") + sum(
        t.usd if t.usd is not None else t.usd_at_most or 0.0 for t in tries
    )


def test_half_the_price_for_every_answer(ledger: Ledger, server: Any) -> None:
    asker = served(ledger, server)
    answers = list(asker.complete(questions(30)))
    asker.close()
    assert {a.request.task.task_id for a in answers} == {f"t{n}" for n in range(30)}
    assert all(a.completion and a.completion.finish == "stop" for a in answers)
    stats = server.stats()
    assert (stats["batches"], stats["batch_rows"], stats["requests"]) == (1, 30, 0)
    assert ledger.spent(role="teacher") == pytest.approx(stats["billed_usd"])
    # 30 questions live: the same tokens at the whole price
    tokens = [a.completion.usage for a in answers if a.completion]
    live = sum(PRICE.cost(u) for u in tokens)
    assert ledger.spent(role="teacher") == pytest.approx(live / 2)
    assert asker.budget.spent_usd == pytest.approx(live / 2)
    assert ledger.tries() == []
    # the answers are calls now, and not kept twice
    assert ledger.query("SELECT COUNT(result) FROM batch_rows")[0][0] == 0
    assert asker.traffic.in_flight == 0
    assert asker.traffic.answered == 30
    # nothing is asked again
    again = list(served(ledger, server).complete(questions(30)))
    assert len(again) == 30
    assert server.stats()["batches"] == 1


def test_the_price_of_a_batch() -> None:
    list_price, batch = price_of("gpt-5-mini", None), price_of("gpt-5-mini", None, batch=True)
    assert list_price is not None
    assert batch is not None
    assert (batch.input, batch.output) == (list_price.input / 2, list_price.output / 2)
    # the table names no price of a batch for this one
    list_price = price_of("mistral-large-latest", None)
    assert list_price is not None
    assert price_of("mistral-large-latest", None, batch=True) == list_price.times(0.5)
    assert price_of("no-such-model-anywhere", None, batch=True) is None


def test_rows_that_failed_are_asked_again(ledger: Ledger, server: Any) -> None:
    server.set(batch_row_errors=0.4)
    answers = list(served(ledger, server).complete(questions(40)))
    assert sum(1 for a in answers if a.completion) == len(answers) == 40
    tries = ledger.tries()
    assert {t.outcome for t in tries} == {"rate_limited", "server_error"}
    assert all(t.usd == 0.0 and t.detail for t in tries)
    stats = server.stats()
    assert (stats["batches"], stats["batch_rows"]) == (2, 40 + len(tries))
    assert ledger.spent(role="teacher") == pytest.approx(stats["billed_usd"])


def test_an_expired_batch_is_recovered(ledger: Ledger, server: Any) -> None:
    server.set(batch_expire_share=0.3)
    answers = list(served(ledger, server).complete(questions(40)))
    assert sum(1 for a in answers if a.completion) == len(answers) == 40
    assert [t.outcome for t in ledger.tries()] == ["timeout"] * 12
    assert server.stats()["batch_rows"] == 40 + 12
    assert server.stats()["batch_rows_answered"] == 40


def test_answers_are_handed_on_before_the_last_retry(ledger: Ledger, server: Any) -> None:
    server.set(batch_expire_share=0.5, batch_seconds=0.5)
    answers = served(ledger, server).complete(questions(10))
    next(answers)
    assert server.stats()["batch_rows_answered"] == 5
    assert len(list(answers)) == 9


def test_an_invalid_batch_is_told_in_one_line(ledger: Ledger, server: Any) -> None:
    server.set(batch_fail_first=True)
    with pytest.raises(UserError, match="invalid_json_line: This line is not valid JSON") as told:
        list(served(ledger, server).complete(questions(3)))
    assert "\n" not in told.value.one_line()
    assert at_risk(ledger) == 0.0
    assert len(list(served(ledger, server).complete(questions(3)))) == 3


def test_the_cap_holds_and_what_fits_is_sent(ledger: Ledger, server: Any) -> None:
    (worst,) = {HALF.at_most(r.messages, r.max_tokens) for r in questions(10)}
    cap = worst * 2.5
    answers = list(served(ledger, server, cap).complete(questions(60)))
    assert len(answers) == 60
    paid = [a for a in answers if a.completion]
    assert {a.missing for a in answers if not a.completion} == {"over_budget"}
    assert 2 < len(paid) < 60
    stats = server.stats()
    assert stats["batch_rows"] == len(paid)
    assert ledger.spent(role="teacher") == pytest.approx(stats["billed_usd"])
    assert stats["billed_usd"] <= cap
    # what is left has no room for one more
    assert cap - stats["billed_usd"] < worst
    # a higher cap goes on
    more = served(ledger, server, 1.0, ledger.spent(role="teacher")).complete(questions(60))
    assert all(a.completion for a in more)
    assert server.stats()["batch_rows"] == 60


@pytest.mark.parametrize(("room", "count"), [(0.0, 0), (0.9, 0), (1.0, 1), (3.5, 3), (9.0, 5)])
def test_as_many_rows_as_there_is_room_for(room: float, count: int) -> None:
    budget = Budget(10.0, 10.0 - room)
    with affordable(budget, [1.0] * 5) as (fit, held):
        assert fit == count
        assert (held is None) == (count == 0)
    assert budget.spent_usd == 10.0 - room


# -- stopped, killed --------------------------------------------------------------------------


def test_a_stopped_run_leaves_its_batch_and_the_next_collects_it(
    ledger: Ledger, server: Any
) -> None:
    server.set(batch_seconds=1.0)
    asker, said = make_asker(ledger, BatchModel("fake", base_url=server.url))
    asker.tick = asker.stopping.set
    assert list(asker.complete(questions(5))) == []
    assert any("5 questions stay" in text for text in said)
    (batch,) = ledger.open_batches("teacher", "fake", server.url)
    assert batch.batch_id == "batch_1"
    held = asker.budget.spent_usd
    assert held == pytest.approx(at_risk(ledger))
    assert held > ledger.spent(role="teacher") == 0.0
    # the same process may go on as well as the next one
    asker.stopping.clear()
    asker.tick = lambda: None
    assert len(list(asker.complete(questions(7)))) == 7
    assert server.stats()["batch_rows"] == 7
    assert asker.budget.spent_usd == pytest.approx(server.stats()["billed_usd"])
    assert ledger.spent(role="teacher") == pytest.approx(server.stats()["billed_usd"])


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_batches as t
from persd.ledger import Ledger
from persd.models.openai_batch import BatchModel

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

create = BatchModel.create
if {moment!r} == "before":
    BatchModel.create = die
elif {moment!r} == "after":
    BatchModel.create = lambda *a: (create(*a), die())
elif {moment!r} == "waiting":
    BatchModel.look = die
elif {moment!r} == "collected":
    Ledger.use_results = die
asker, _ = t.make_asker(Ledger({run!r}), BatchModel("fake", base_url={url!r}))
list(asker.complete(t.questions(6)))
"""


@pytest.mark.parametrize(
    ("moment", "batches"), [("before", 1), ("after", 1), ("waiting", 1), ("collected", 1)]
)
def test_a_killed_process_pays_for_nothing_twice(
    tmp_path: Path, server: Any, moment: str, batches: int
) -> None:
    run = str(tmp_path / "run")
    code = KILLED.format(tests=str(Path(__file__).parent), moment=moment, run=run, url=server.url)
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    with Ledger(run) as ledger:
        assert ledger.query("SELECT COUNT(*) AS n FROM calls")[0]["n"] == 0
        assert at_risk(ledger) > 0
        asker = served(ledger, server, spent=at_risk(ledger))
        answers = list(asker.complete(questions(6)))
        assert sum(1 for a in answers if a.completion) == 6
        stats = server.stats()
        assert (stats["batches"], stats["batch_rows"]) == (batches, 6)
        assert ledger.spent(role="teacher") == pytest.approx(stats["billed_usd"])
        assert asker.budget.spent_usd == pytest.approx(stats["billed_usd"])
        assert ledger.tries() == []


def test_rows_nobody_asks_for_again_stay_stored(tmp_path: Path, server: Any) -> None:
    server.set(batch_seconds=0.5)
    with Ledger(tmp_path) as ledger:
        asker = served(ledger, server)
        asker.tick = asker.stopping.set
        list(asker.complete(questions(4)))
    with Ledger(tmp_path) as ledger:
        asker = served(ledger, server, spent=at_risk(ledger))
        list(asker.complete(questions(2)))
        assert server.stats()["batch_rows"] == 4
        assert asker.budget.spent_usd == pytest.approx(server.stats()["billed_usd"])
    with Ledger(tmp_path) as ledger:
        assert at_risk(ledger) == pytest.approx(server.stats()["billed_usd"])
        assert len(list(served(ledger, server).complete(questions(4)))) == 4
        assert server.stats()["batches"] == 1


# -- a provider that says odd things ----------------------------------------------------------

Said = Callable[[Request, int], "dict[str, Any] | None"]


class Provider(BatchModel):
    """A Batch API in this process; ``say`` gives the result of a question the n-th time it is
    asked (None: no word on it)."""

    def __init__(self, say: Said) -> None:
        super().__init__("fake", base_url="http://127.0.0.1:1/v1")
        self.say = say
        self.files: list[list[dict[str, Any]]] = []
        self.batches: dict[str, tuple[int, str]] = {}
        self.asked: dict[str, int] = {}
        self.ends: list[dict[str, Any]] = []
        """How the first batches end, where they are not answered."""
        self.lost_replies = 0
        """Times that a batch is created and its reply does not arrive."""
        self.knows = True
        self._requests: dict[str, Request] = {}

    def lines(self, questions: Sequence[tuple[str, Request]]) -> list[bytes]:
        self._requests |= dict(questions)
        return super().lines(questions)

    def upload(self, lines: Sequence[bytes]) -> str:
        self.files.append([json.loads(line) for line in lines])
        return f"file-{len(self.files)}"

    def create(self, file: str, path: str, key: str) -> str:
        name = f"batch_{len(self.batches) + 1}"
        self.batches[name] = (int(file.removeprefix("file-")) - 1, key)
        if self.lost_replies:
            self.lost_replies -= 1
            raise TryAgain("timeout", "no answer", billed=True)
        return name

    def find(self, key: str, since: float) -> str | None:
        return next((name for name, (_, k) in self.batches.items() if k == key), None)

    def look(self, batch_id: str) -> dict[str, Any] | None:
        if not self.knows:
            return None
        ends = self.ends.pop(0) if self.ends else {"status": "completed"}
        return {**ends, "id": batch_id}

    def results(self, told: dict[str, Any]) -> dict[str, dict[str, Any]]:
        found = {}
        for row in self.files[self.batches[told["id"]][0]] if told else []:
            key = row["custom_id"]
            self.asked[key] = self.asked.get(key, 0) + 1
            said = self.say(self._requests[key], self.asked[key])
            if said is not None:
                found[key] = {"custom_id": key, **said}
        return found


def good(text: str = "ok", model: str = "fake") -> dict[str, Any]:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    body = {"model": model, "choices": [choice], "usage": usage}
    return {"response": {"status_code": 200, "body": body}, "error": None}


def bad(status: int, message: str = "no", **more: Any) -> dict[str, Any]:
    error = {"message": message, "code": None, "param": None, **more}
    return {"response": {"status_code": status, "body": {"error": error}}, "error": None}


def ask(ledger: Ledger, say: Said, count: int = 4) -> tuple[list[Answer], Provider, Asker]:
    provider = Provider(say)
    asker, _ = make_asker(ledger, provider)
    return list(asker.complete(questions(count))), provider, asker


def is_odd(request: Request) -> bool:
    return request.task.task_id == "t3"


@pytest.mark.parametrize(
    ("odd", "outcome", "usd"),
    [
        (None, "lost", None),
        (good(""), "unusable", 10e-6),
        (good(model="another"), "unusable", 10e-6),
        ({"response": {"status_code": 200, "body": []}}, "malformed", None),
        (bad(500), "server_error", 0.0),
        (bad(429), "rate_limited", 0.0),
        (bad(404), "refused", 0.0),
        ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, "timeout", 0.0),
    ],
)
def test_a_row_without_an_answer_is_asked_again(
    ledger: Ledger, odd: dict[str, Any] | None, outcome: str, usd: float | None
) -> None:
    answers, provider, asker = ask(ledger, lambda r, n: odd if is_odd(r) and n == 1 else good())
    assert sum(1 for a in answers if a.completion) == 4
    assert [len(f) for f in provider.files] == [4, 1]
    (failed,) = ledger.tries()
    assert (failed.outcome, failed.call_id) == (outcome, call_id(provider, questions(4)[3]))
    assert failed.usd == (usd if usd is None else pytest.approx(usd))
    assert asker.budget.spent_usd == pytest.approx(at_risk(ledger))


@pytest.mark.parametrize(
    ("odd", "why", "tries"),
    [(bad(500, "broken"), "500: broken", 3), (good(""), "the reply is empty", 2)],
)
def test_a_row_that_never_works_is_given_up(
    ledger: Ledger, odd: dict[str, Any], why: str, tries: int
) -> None:
    answers, provider, _ = ask(ledger, lambda r, n: odd if is_odd(r) else good())
    (missing,) = [a for a in answers if a.completion is None]
    assert missing.missing == "unavailable"
    assert f"{why} (after {tries} tries)" in missing.detail
    assert [len(f) for f in provider.files] == [4] + [1] * (tries - 1)


def test_a_refused_prompt_is_an_answer(ledger: Ledger) -> None:
    answers, _, asker = ask(ledger, lambda r, n: bad(400, "too long") if is_odd(r) else good())
    found = {a.request.task.task_id: a.completion for a in answers}
    assert found["t3"] is not None
    assert (found["t3"].finish, found["t3"].note) == ("rejected", "400: too long")
    assert asker.budget.spent_usd == pytest.approx(3 * 10e-6)


def test_where_prompts_alone_are_refused_later_they_are_at_fault(ledger: Ledger) -> None:
    refused = {f"t{n}" for n in range(2, 5)}

    def say(request: Request, number: int) -> dict[str, Any]:
        return bad(400, "too long") if request.task.task_id in refused else good()

    asker, _ = make_asker(ledger, Provider(say))
    list(asker.complete(questions(2)))
    answers = list(asker.complete(questions(5, first=2)))
    assert [a.completion and a.completion.finish for a in answers] == ["rejected"] * 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429])
def test_where_all_are_refused_the_user_has_to_mend_it(ledger: Ledger, status: int) -> None:
    provider = Provider(lambda r, n: bad(status, "not yours", code="insufficient_quota"))
    asker, _ = make_asker(ledger, provider)
    with pytest.raises(UserError, match=f"refused every question of the batch .{status}: not"):
        list(asker.complete(questions(4)))
    assert at_risk(ledger) == 0.0
    provider.say = lambda r, n: good()
    assert all(a.completion for a in asker.complete(questions(4)))


def test_a_setting_that_is_refused_is_left_out(ledger: Ledger) -> None:
    provider = Provider(lambda r, n: bad(400, param="temperature") if n == 1 else good())
    asker, _ = make_asker(ledger, provider)
    assert all(a.completion for a in asker.complete(questions(4)))
    assert ["temperature" in f[0]["body"] for f in provider.files] == [True, False]


def test_a_lost_reply_to_the_creation_makes_no_second_batch(ledger: Ledger) -> None:
    provider = Provider(lambda r, n: good())
    provider.lost_replies = 1
    asker, _ = make_asker(ledger, provider)
    assert all(a.completion for a in asker.complete(questions(4)))
    assert len(provider.batches) == 1


def test_a_provider_that_is_away_for_a_while_is_waited_for(ledger: Ledger) -> None:
    provider = Provider(lambda r, n: good())
    look, away = provider.look, iter(range(5))  # longer than one question would be tried

    def look_later(name: str) -> dict[str, Any] | None:
        if next(away, None) is not None:
            raise TryAgain("connection", "away")
        return look(name)

    provider.look = look_later  # type: ignore[method-assign, assignment]
    asker, _ = make_asker(ledger, provider)
    assert all(a.completion for a in asker.complete(questions(4)))


def test_who_waits_for_room_in_the_budget_can_be_stopped() -> None:
    budget, stop = Budget(1.0), threading.Event()
    threading.Timer(0.1, stop.set).start()
    with budget.reserve(1.0), affordable(budget, [0.5] * 3, stop.is_set) as (count, held):
        assert (count, held) == (0, None)
    assert stop.is_set()


def test_a_full_queue_is_waited_for_with_smaller_batches(ledger: Ledger) -> None:
    full = {"errors": {"data": [{"code": "token_limit_exceeded", "message": "Enqueued"}]}}
    provider = Provider(lambda r, n: good())
    provider.ends = [{"status": "failed", **full}] * 2
    asker, said = make_asker(ledger, provider)
    assert all(a.completion for a in asker.complete(questions(8)))
    assert [len(f) for f in provider.files] == [8, 4, 2, 2, 2, 2]
    assert any("has to wait: Enqueued" in text for text in said)
    assert ledger.tries() == []


def test_a_cancelled_batch_is_not_asked_again_by_this_run(ledger: Ledger) -> None:
    provider = Provider(lambda r, n: None if is_odd(r) else good())
    provider.ends = [{"status": "cancelled"}]
    asker, _ = make_asker(ledger, provider)
    answers = list(asker.complete(questions(4)))
    (missing,) = [a for a in answers if a.completion is None]
    assert (missing.missing, len(provider.files)) == ("unavailable", 1)


def test_a_batch_that_is_not_known_is_told_and_later_given_up(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Provider(lambda r, n: good())
    provider.knows = False
    asker, _ = make_asker(ledger, provider)
    with pytest.raises(UserError, match="batch_1, sent by this run, is not known there"):
        list(asker.complete(questions(2)))
    assert asker.budget.spent_usd == pytest.approx(at_risk(ledger)) != 0.0
    monkeypatch.setattr(batches_module, "GONE_AFTER", 0.0)
    looks = iter([None, {"status": "completed", "id": "batch_2"}])
    monkeypatch.setattr(provider, "look", lambda name: next(looks))
    assert all(a.completion for a in asker.complete(questions(2)))
    assert {t.outcome for t in ledger.tries()} == {"lost"}
    assert asker.budget.spent_usd == pytest.approx(at_risk(ledger))


def test_the_same_question_twice_is_one_row(ledger: Ledger) -> None:
    provider = Provider(lambda r, n: good())
    asker, _ = make_asker(ledger, provider)
    assert len(list(asker.complete(questions(3) + questions(2)))) == 5
    assert [len(f) for f in provider.files] == [3]


def test_an_endpoint_without_batches_is_told(ledger: Ledger, server: Any) -> None:
    asker, _ = make_asker(ledger, BatchModel("fake", base_url=f"{server.url}/nothing"))
    with pytest.raises(UserError, match=r'has no Batch API .* set mode = "live"'):
        list(asker.complete(questions(1)))


def test_a_provider_that_is_away_is_asked_by_the_next_run(ledger: Ledger) -> None:
    asker, _ = make_asker(ledger, BatchModel("fake", base_url="http://127.0.0.1:1/v1"))
    answers = list(asker.complete(questions(2)))
    assert [a.missing for a in answers] == ["unavailable"] * 2
    assert at_risk(ledger) == 0.0


def test_a_batch_is_waited_for_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that goes out beside another does not wait for it, nor collects it as well."""
    monkeypatch.setattr(BatchModel, "batch", 2)
    provider = Provider(lambda r, n: good())
    look, looks = provider.look, iter(range(200))

    def look_last(name: str) -> dict[str, Any] | None:
        wait = len(provider.batches) < 2 and next(looks, None) is not None
        return {"status": "in_progress"} if wait else look(name)

    def source() -> Iterator[Request]:
        yield from questions(2)
        while not ledger.open_batches("teacher", "fake", provider.where):
            pass
        yield from questions(4, first=2)

    provider.look = look_last  # type: ignore[method-assign, assignment]
    asker, _ = make_asker(ledger, provider)
    assert all(a.completion for a in asker.complete(source()))
    assert next(looks, None) is not None
    assert provider.asked == dict.fromkeys(provider.asked, 1)


def test_a_batch_is_found_among_many(server: Any) -> None:
    model = BatchModel("fake", base_url=server.url)
    began = time.time()
    file = model.upload(model.lines([("a", make_request(1))]))
    made = [model.create(file, "/v1/chat/completions", f"key {n}") for n in range(103)]
    assert model.find("key 1", began) == made[1]  # on the second page
    assert model.find("key 101", began) == made[101]
    assert model.find("no such key", began) is None
    model.close()


def test_several_units_are_under_way_together(
    ledger: Ledger, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.set(batch_seconds=0.3)
    monkeypatch.setattr(BatchModel, "batch", 5)
    answers = list(served(ledger, server).complete(questions(20)))
    assert len({a.call_id for a in answers if a.completion}) == 20
    assert server.stats()["batches"] == 4
    assert threading.active_count() < 20


# -- a whole run ------------------------------------------------------------------------------


def config_of(folder: Path, url: str, **teacher: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"dir": str(folder / "run"), "variants": ["persd-combined"]},
            "tasks": {"source": "jsonl", "path": str(folder / "tasks.jsonl")},
            "student": {"model": f"scripted:{folder}/student.jsonl"},
            "teacher": {
                "model": "fake",
                "base_url": url,
                "mode": "batch",
                "price": {"input": 1.0, "output": 2.0},
                **teacher,
            },
        }
    )


def test_a_whole_run(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "Batches", functools.partial(Batches, pauses=PAUSES))
    server.set(wrong_share=0.5)
    kill.write_tasks(tmp_path, 30)
    config = config_of(tmp_path, server.url, budget_usd=1.0)
    with Run(config) as run:
        load_pool(run)
        collect(run, 1, config.student.model)
        states = {s.state for s in run.ledger.states(1).values()}
        assert states == {"solved", "refined"}
        attempts = {s.attempt for s in run.ledger.solutions(kind="refinement")}
        assert attempts == {1, 2}
        stats = server.stats()
        # the second tries are a second batch
        assert (stats["batches"], stats["requests"]) == (2, 0)
        assert run.ledger.spent(role="teacher") == pytest.approx(stats["billed_usd"])
        assert run.teacher().budget.spent_usd == pytest.approx(stats["billed_usd"])


def test_a_batch_under_way_is_not_asked_live(tmp_path: Path, server: Any) -> None:
    server.set(batch_seconds=60.0)
    kill.write_tasks(tmp_path, 6)
    batch, live = (config_of(tmp_path, server.url, mode=m) for m in ("batch", "live"))
    with Run(batch) as run:
        load_pool(run)
        run.teacher().tick = run.stopping.set
        with pytest.raises(KeyboardInterrupt):
            collect(run, 1, batch.student.model)
    with Run(live) as run:
        load_pool(run)
        with pytest.raises(UserError, match="questions to fake are in batches"):
            collect(run, 1, live.student.model)
    assert server.stats()["requests"] == 0


@pytest.mark.parametrize(
    "table", [{"student": {"model": "lab", "mode": "batch"}}, {"teacher": {"model": "lab"}}]
)
def test_only_served_models_have_batches(tmp_path: Path, table: dict[str, Any]) -> None:
    plain = json.loads(config_of(tmp_path, "http://127.0.0.1:1/v1").model_dump_json())
    if "teacher" in table:
        table = {"teacher": {"model": "lab", "mode": "batch"}}
    with pytest.raises(ValueError, match="lab is not served"):
        Config.model_validate(plain | table)
