"""The limiter: as fast as an endpoint bears, never faster than was asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from persd import throttle as throttle_module
from persd.throttle import LONGEST_HOLD, Stopped, Throttle, seconds_of


def never() -> bool:
    return False


class Clock:
    """A time that passes only when somebody waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(throttle_module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def fit(self, throttle: Throttle) -> Throttle:
        """Let those who wait in this throttle wait by this clock."""

        def passes(timeout: float | None = None) -> bool:
            assert timeout is not None, "nobody waits without a bound"
            self.now += timeout
            return False

        throttle._changed.wait = passes  # type: ignore[method-assign]
        return throttle


@pytest.fixture
def clock() -> Iterator[Clock]:
    with pytest.MonkeyPatch.context() as patch:
        yield Clock(patch)


def window(throttle: Throttle, refused: float = 0.0, seconds: float = 1.0, told: float = 0) -> None:
    """As many answers as a window of the present limit takes; a share of them refusals."""
    count = max(4, int(throttle.limit))
    bad = round(count * refused)
    for _ in range(bad):
        throttle.refused(told or None)
    for _ in range(count - bad):
        throttle.answered(seconds, 0, 0)


# -- in flight ----------------------------------------------------------------------------------


def test_never_more_in_flight_than_the_limit() -> None:
    throttle, lock = Throttle(5), threading.Lock()
    held = most = 0

    def call(_: int) -> None:
        nonlocal held, most
        with throttle.turn(1, never):
            with lock:
                held += 1
                most = max(most, held)
            time.sleep(0.001)
            with lock:
                held -= 1
        throttle.answered(0.001, 1, 1)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(call, range(200)))
    assert most == 5
    assert throttle.in_flight == 0


def test_a_turn_comes_back_from_a_call_that_fails() -> None:
    throttle = Throttle(1)
    for _ in range(3):
        with pytest.raises(KeyError), throttle.turn(1, never):
            raise KeyError
    assert throttle.in_flight == 0


def test_it_falls_when_most_are_turned_away_and_rises_again() -> None:
    throttle = Throttle(64)
    for _ in range(6):
        window(throttle, refused=0.9)
    assert throttle.limit < 8
    for _ in range(100):
        window(throttle)
    assert throttle.limit == 64


def test_at_least_one_is_always_asked() -> None:
    throttle = Throttle(16)
    for _ in range(50):
        window(throttle, refused=1.0)
    assert throttle.limit >= 1
    with throttle.turn(1, never):
        assert throttle.in_flight == 1


def test_stray_refusals_slow_nothing_down() -> None:
    throttle = Throttle(64)
    for n in range(2000):
        if n % 10 == 0:
            throttle.refused(1.0)
        else:
            throttle.answered(1.0, 0, 0)
    assert throttle.limit >= 60


def test_it_settles_near_what_the_endpoint_bears() -> None:
    throttle, bears = Throttle(64), 20
    limits = []
    for _ in range(300):
        limits.append(int(throttle.limit))
        window(throttle, refused=max(0.0, 1 - bears / int(throttle.limit)))
    later = limits[50:]
    assert bears / 2 <= sum(later) / len(later) <= bears * 1.5


# -- queues -------------------------------------------------------------------------------------


def test_a_queue_at_the_endpoint_lowers_it(clock: Clock) -> None:
    """An endpoint that works on eight at a time, a second each: the others stand in line."""
    throttle = Throttle(64)
    throttle.limit = 4.0
    limits = []
    for _ in range(200):
        inside = int(throttle.limit)
        seconds = max(1.0, inside / 8)
        clock.now += seconds * max(4, inside) / inside
        window(throttle, seconds=seconds)
        limits.append(int(throttle.limit))
    later = limits[100:]
    assert min(later) >= 8
    assert max(later) <= 36  # far from its most, though nothing was ever refused


def test_questions_that_take_longer_do_not_lower_it_for_long(clock: Clock) -> None:
    throttle = Throttle(64)

    def answers(windows: int, seconds: float) -> list[float]:
        limits = []
        for _ in range(windows):
            inside = int(throttle.limit)
            clock.now += seconds * max(4, inside) / inside
            window(throttle, seconds=seconds)
            limits.append(throttle.limit)
        return limits

    answers(20, 1.0)
    longer = answers(60, 10.0)  # whatever the limit is: that is what such questions take
    assert min(longer) >= 16
    assert longer[-1] == 64


# -- what was told ------------------------------------------------------------------------------


def began(clock: Clock, throttle: Throttle, tokens: int = 1) -> float:
    """Seconds until the next turn."""
    before = clock.now
    with throttle.turn(tokens, never):
        return clock.now - before


def test_all_wait_when_most_are_told_to(clock: Clock) -> None:
    throttle = clock.fit(Throttle(8))
    window(throttle, refused=0.8, told=20.0)
    assert began(clock, throttle) == pytest.approx(20, abs=0.01)
    assert began(clock, throttle) == 0


def test_one_that_is_told_to_wait_holds_up_nobody(clock: Clock) -> None:
    throttle = clock.fit(Throttle(8))
    window(throttle, refused=0.2, told=20.0)
    assert began(clock, throttle) == 0


def test_no_endpoint_is_heeded_for_ever(clock: Clock) -> None:
    throttle = clock.fit(Throttle(8))
    window(throttle, refused=1.0, told=86400.0)
    assert began(clock, throttle) <= LONGEST_HOLD + 0.5


@pytest.mark.parametrize("what", ["requests", "tokens"])
def test_when_nothing_is_left_all_wait_for_more(clock: Clock, what: str) -> None:
    throttle = clock.fit(Throttle(8))
    left, reset = f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}"
    throttle.told({left: "1", reset: "30s"})
    assert began(clock, throttle) == 0
    throttle.told({left: "0", reset: "30s"})
    assert began(clock, throttle) == pytest.approx(30, abs=0.01)
    throttle.told({left: "0"})
    throttle.told({left: "0", reset: "soon"})
    throttle.told({left: "none", reset: "9s"})
    assert began(clock, throttle) == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.5", 1.5),
        ("0", 0.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1.2s", 1.2),
        ("1h2m3s", 3723.0),
        ("1d", 86400.0),
        (" 7S ", 7.0),
        ("", None),
        ("soon", None),
        ("5 minutes", None),
        ("-1", None),
        ("6m and 1s", None),
        ("nan", None),
        ("1e9", None),
    ],
)
def test_durations_as_headers_have_them(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == (None if seconds is None else pytest.approx(seconds))


# -- a minute's allowance -----------------------------------------------------------------------


def test_no_more_requests_a_minute_than_allowed(clock: Clock) -> None:
    throttle = clock.fit(Throttle(64, requests_per_minute=60))
    starts = []
    for _ in range(300):
        with throttle.turn(1, never):
            starts.append(clock.now)
        throttle.answered(0.1, 1, 1)
    for start in starts:
        within = sum(start <= other < start + 60 for other in starts)
        assert within <= 60 + 3  # two seconds' worth may come at once
    assert starts[-1] - starts[0] == pytest.approx(300, rel=0.03)


def test_no_more_tokens_a_minute_than_allowed(clock: Clock) -> None:
    throttle = clock.fit(Throttle(64, tokens_per_minute=6000))
    began_at = clock.now
    for _ in range(100):
        with throttle.turn(500, never):
            pass
        throttle.answered(0.1, 500, 300)  # it used fewer than were held back
    assert (clock.now - began_at) == pytest.approx(100 * 300 / 100, rel=0.05)


def test_a_call_larger_than_a_minutes_allowance_is_sent_all_the_same(clock: Clock) -> None:
    throttle = clock.fit(Throttle(64, tokens_per_minute=60))
    assert began(clock, throttle, tokens=600) == 0
    throttle.answered(0.1, 600, 600)
    assert began(clock, throttle) == pytest.approx(600, rel=0.01)


def test_an_allowance_that_was_not_used_is_not_saved_up(clock: Clock) -> None:
    throttle = clock.fit(Throttle(64, requests_per_minute=60))
    clock.now += 3600
    assert sum(began(clock, throttle) == 0 for _ in range(10)) <= 3


# -- stopping -----------------------------------------------------------------------------------


def test_a_stop_releases_all_who_wait() -> None:
    throttle, stopping = Throttle(1), threading.Event()

    def call() -> str:
        try:
            with throttle.turn(1, stopping.is_set):
                return "sent"
        except Stopped:
            return "stopped"

    with ThreadPoolExecutor(20) as pool, ExitStack() as under_way:
        under_way.enter_context(throttle.turn(1, never))
        waiting = [pool.submit(call) for _ in range(20)]
        stopping.set()
        done, late = wait(waiting, timeout=30)
        assert not late
        assert {f.result() for f in done} == {"stopped"}
    assert throttle.in_flight == 0


def test_who_stops_is_not_kept_by_another_who_waits_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throttle_module, "_LOOK", 0.01)
    throttle, others_stop = Throttle(1), threading.Event()

    def call(stopping: threading.Event) -> bool:
        try:
            with throttle.turn(1, stopping.is_set):
                return True
        except Stopped:
            return False

    own_stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        with throttle.turn(1, never):
            other = pool.submit(call, others_stop)
            while not throttle._head.locked():
                time.sleep(0.001)
            own = pool.submit(call, own_stop)
            own_stop.set()
            assert own.result(timeout=30) is False  # the turn is still taken, the other waits
            assert not other.done()
        assert other.result(timeout=30) is True


def test_a_turn_wakes_who_waits_for_it() -> None:
    throttle = Throttle(1)
    order: list[int] = []

    def call(n: int) -> None:
        with throttle.turn(1, never):
            order.append(n)

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(call, range(300)))
    assert sorted(order) == list(range(300))
