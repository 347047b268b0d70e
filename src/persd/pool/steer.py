"""What each question asks: which seeds it shows, what about, and how hard.

Everything follows from the question's number and the seed alone, in constant time, so that a run
that is taken up again asks the same. All is spread evenly: every topic meets every difficulty
before a pair comes again, and every seed is shown as often as the others (self-instruct: Wang et
al. 2022, with topics as in the attributes of Yu et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

from persd.config import GenerateTable
from persd.records import Brief, Task, derive_seed


def brief_of(rules: GenerateTable, seeds: Sequence[Task], seed: int, number: int) -> Brief:
    """What question ``number`` (from 0) asks. Costs the same however many seeds there are."""
    topic, difficulty = combination(
        rules.topics or TOPICS, rules.difficulties or DIFFICULTIES, seed, number
    )
    places = drawn(len(seeds), min(rules.shots, len(seeds)), seed, number)
    return Brief(
        number=number,
        count=rules.per_call,
        calls=rules.calls,
        shown=tuple(seeds[place] for place in places),
        topic=topic,
        difficulty=difficulty,
    )


def combination(
    rows: Sequence[str], columns: Sequence[str], seed: int, number: int
) -> tuple[str, str]:
    """The pair of turn ``number``: all pairs come before one comes again. Every ``len(rows)``
    turns each row comes once, and the columns take turns."""
    lap, turn = divmod(number, len(rows) * len(columns))
    diagonal, step = divmod(turn, len(rows))
    row = shuffled(step, len(rows), derive_seed(seed, "rows", lap))
    column = (step + diagonal + derive_seed(seed, "columns", lap)) % len(columns)
    return rows[row], columns[column]


# ---- which seeds -----------------------------------------------------------------------------


def drawn(count: int, shots: int, seed: int, number: int) -> list[int]:
    """The places, of ``count``, of the ``shots`` seeds that a question shows, none twice.

    Questions take their cards from a shuffled deck one after the other, and where it ends from the
    next one, shuffled anew: after any question no seed was shown more than once
    more than another.
    """
    begin = number * shots
    if not shots or count < 2 * shots:  # there is hardly any choice: go round
        deck = derive_seed(seed, "deck")
        return [shuffled((begin + i) % count, count, deck) for i in range(shots)]
    deck, at = divmod(begin, count)
    here = range(at, min(at + shots, count))
    places = _cards(count, shots, seed, deck, here)
    return places + _cards(count, shots, seed, deck + 1, range(shots - len(here)))


def _cards(count: int, shots: int, seed: int, deck: int, at: range) -> list[int]:
    """Cards of a deck. The question that the deck before left open takes the first ones: those
    that it has are moved behind those that it has not."""
    key, taken = derive_seed(seed, "deck", deck), deck * count % shots
    if not taken or at.start >= shots:
        return [shuffled(i, count, key) for i in at]
    before = derive_seed(seed, "deck", deck - 1)
    has = {shuffled(count - 1 - i, count, before) for i in range(taken)}
    first = sorted((shuffled(i, count, key) for i in range(shots)), key=has.__contains__)
    return [first[i] if i < shots else shuffled(i, count, key) for i in at]


def shuffled(place: int, count: int, key: int) -> int:
    """Where a card lies in a shuffled deck of ``count``: a permutation, one place at a time.

    Four rounds of a Feistel network on the least even number of bits, gone through again until
    the result is below ``count`` (Black and Rogaway 2002, "cycle walking").
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for turn in range(4):
            left, right = right, left ^ (_mixed(right, key + turn) & mask)
        place = left << half | right
        if place < count:
            return place


def _mixed(value: int, key: int) -> int:
    """64 bits in which every bit of the two counts (the end of SplitMix64)."""
    mixed = (value + 0x9E3779B97F4A7C15 * (key + 1)) & _WORD
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _WORD
    return mixed ^ mixed >> 31


_WORD = (1 << 64) - 1

# ---- the texts -------------------------------------------------------------------------------

TOPICS = (
    "strings: searching, splitting and joining",
    "strings: counting and comparing characters",
    "strings: rewriting by rules",
    "palindromes, anagrams and other patterns in words",
    "formatting and aligning text",
    "parsing a small notation",
    "brackets and nesting",
    "encoding and decoding, such as run lengths and ciphers",
    "whole numbers: divisors, primes and remainders",
    "digits and number bases",
    "bits and masks",
    "fractions, ratios and rounding by a stated rule",
    "sequences of numbers defined by a recurrence",
    "statistics of a list: means, medians, modes and ranks",
    "lists: selecting and filtering",
    "lists: rearranging, rotating and interleaving",
    "lists: running totals, differences and windows",
    "lists: searching and insertion in sorted order",
    "sorting by several keys, with ties",
    "nested lists of any depth",
    "dicts: counting and grouping",
    "dicts: merging, inverting and comparing",
    "nested dicts and lists of records",
    "sets: membership, overlap and partition",
    "tuples and pairs",
    "matrices: rows, columns and diagonals",
    "grids: neighbours, regions and moves",
    "points, rectangles and distances on whole coordinates",
    "intervals: overlaps, gaps and merging",
    "calendars and clock times given as plain numbers or text",
    "money, prices and discounts in whole cents",
    "inventories, orders and ledgers",
    "schedules and bookings",
    "simulation of a process step by step",
    "stacks and queues",
    "games: boards, cards, dice and scores",
    "combinations, permutations and subsets",
    "dynamic programming on sequences",
    "greedy choices",
    "graphs given as dicts or lists of edges",
    "trees given as nested lists or dicts",
    "checking data against rules and reporting what is wrong",
    "comparing versions, names or codes by a stated order",
    "tables of text: reading columns and summing them up",
)

DIFFICULTIES = (
    "easy; one idea and one loop or expression, for somebody who has just learnt functions",
    "moderate; two ideas that work together, or one with edge cases that need thought",
    "demanding; several steps or a helper function, with edge cases that the rule decides",
    "hard; an algorithm must be found, and a plausible first try goes wrong on some inputs",
)
