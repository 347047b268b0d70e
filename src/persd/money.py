"""The one place where money is counted: prices, what a call cost, and the cap.

A price that is not known is unknown, never 0; a cap then needs a price from the user.
What a call may cost at most is reserved before it is sent and settled when it is answered,
so that a cap holds however many calls are in flight.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from persd.records import Message, Try, Usage

#: Tokens a chat template may add to a message beside its text.
_OVERHEAD_PER_MESSAGE = 16


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens; ``cached`` is the price of input read from the provider's cache."""

    input: float
    output: float
    cached: float | None = None

    def cost(self, usage: Usage) -> float:
        """USD of one call."""
        cached = self.input if self.cached is None else self.cached
        fresh = usage.input_tokens - usage.cached_tokens
        total = (
            fresh * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output
        )
        return total / 1e6

    def at_most(self, messages: Sequence[Message], max_tokens: int) -> float:
        """An upper bound of what a request can cost, in USD."""
        return self.cost(most_tokens(messages, max_tokens))

    def times(self, share: float) -> Price:
        """A share of this price."""
        cached = None if self.cached is None else self.cached * share
        return Price(self.input * share, self.output * share, cached)


FREE = Price(0.0, 0.0, 0.0)


def most_tokens(messages: Sequence[Message], max_tokens: int) -> Usage:
    """An upper bound of a request's tokens: no tokenizer makes more tokens than bytes."""
    size = sum(len(m.content.encode("utf-8", "replace")) + _OVERHEAD_PER_MESSAGE for m in messages)
    return Usage(input_tokens=size, output_tokens=max_tokens, known=False)


#: What a call in a batch costs, as a share of the list price, where nothing else is known.
BATCH_SHARE = 0.5


def price_of(model: str, base_url: str | None, *, batch: bool = False) -> Price | None:
    """The list price of a served model, or None where it is not known.

    A loopback endpoint is the user's own machine and costs nothing. The table is
    genai-prices' offline one; of a tiered price the first tier's is returned. ``batch``: the
    price of a call in a batch; where the table names none, half the list price, which is what
    every provider of one that we know asks.
    """
    if is_loopback(base_url):
        return FREE
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    million = 1_000_000

    def listed(context: dict[str, str]) -> Price:
        both = Tokens(input_tokens=million, output_tokens=million)
        read = Tokens(input_tokens=million, cache_read_tokens=million)
        plain, cached = (
            calc_price(tokens, model, provider_api_url=base_url, price_context=context)
            for tokens in (both, read)
        )
        return Price(float(plain.input_price), float(plain.output_price), float(cached.input_price))

    try:
        price = listed({})
        if not batch:
            return price
        in_batch = listed({"processing": "batch"})
        return price.times(BATCH_SHARE) if in_batch == price else in_batch
    except LookupError:
        return None


def spent_on(sent: Try, price: Price | None) -> float:
    """USD of a try: what it cost, or at most can have cost; 0.0 where no price was ever known."""
    if sent.usd is not None:
        return sent.usd
    return (price or FREE).cost(sent.usage) if sent.usd_at_most is None else sent.usd_at_most


def is_loopback(base_url: str | None) -> bool:
    """Whether an endpoint is this machine."""
    host = urlsplit(base_url or "").hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Budget:
    """A hard cap in USD over one role's calls; None: no cap. Thread-safe."""

    def __init__(
        self,
        cap_usd: float | None,
        spent_usd: float = 0.0,
        untold_usd: float = 0.0,
        *,
        is_free: bool = False,
    ) -> None:
        self.cap_usd = cap_usd
        self.spent_usd = spent_usd
        """What is gone, or may be."""
        self.untold_usd = untold_usd
        """The part of it for calls whose cost nobody told, at the most it can have been."""
        self.is_free = is_free
        """Nothing that is asked costs anything."""
        self._reserved = 0.0
        self._under_way = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(
        self, usd: float, stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[Reservation | None]:
        """Hold back the most a call can cost while it is under way; None: the cap forbids it.

        Calls under way mostly cost less than they hold back, so a call that would only fit
        once they have settled waits for them rather than being refused; no longer once
        ``stopping`` says so.
        """
        with self._changed:
            while self._over(usd) and self._under_way and not stopping():
                self._changed.wait(0.5)
            granted = None if self._over(usd) else Reservation(usd)
            if granted:
                self._reserved += usd
                self._under_way += 1
        try:
            yield granted
        finally:
            if granted:
                with self._changed:
                    self._under_way -= 1
                    # rounding must not leave a crumb that is taken for money
                    self._reserved = max(0.0, self._reserved - usd) if self._under_way else 0.0
                    self.spent_usd += granted.settled_usd
                    self.untold_usd += granted.untold_usd
                    self._changed.notify_all()

    def no_room_for(self, usd: float) -> str:
        """Why a call that may cost so much is not made, in words."""
        untold = (
            f", {self.untold_usd:.4f} of it held for calls whose cost nobody told"
            if self.untold_usd
            else ""
        )
        return (
            f"of the cap of {self.cap_usd} USD {self.spent_usd:.4f} are gone{untold}, "
            f"and the next call may cost {usd:.4f}"
        )

    def correct(self, usd: float) -> None:
        """Count so much more, or less where it is negative, than was counted before."""
        with self._changed:
            self.spent_usd += usd
            self._changed.notify_all()

    def _over(self, usd: float) -> bool:
        if self.cap_usd is None:
            return False
        return self.spent_usd + self._reserved + usd > self.cap_usd + 1e-12


@dataclass(slots=True)
class Reservation:
    """What is held back for one call, and what it turned out to cost."""

    usd: float
    settled_usd: float = 0.0
    untold_usd: float = 0.0

    def settle(self, usd: float | None) -> None:
        """Count what the call cost; None: unknown, so the most it can have cost."""
        self.settled_usd += self.usd if usd is None else usd
        self.untold_usd += self.usd if usd is None else 0.0
