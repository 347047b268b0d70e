"""The vocabulary of the lab family: single steps from one type to another.

Each step says what it does in two or three phrasings, as one expression, and as a loop.
Types: ``L`` list of ints, ``W`` list of words, ``S`` text, ``I`` int. In the templates
``{x}`` is the input, ``{o}`` the name of the output, ``{k}`` a number 2-5, ``{c}`` and
``{d}`` letters a-e, ``{s}`` a separator. ``{x}`` occurs once in every expression, so that
expressions nest without repeating themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Name of one element of a value, by the type of the value.
ELEMENT = {"L": "v", "W": "w", "S": "ch"}
_EMPTY = {"L": "[]", "W": "[]", "S": '""', "I": "0"}


@dataclass(frozen=True, slots=True)
class Step:
    """One step: ``source`` and ``target`` are types; ``params`` the placeholders it uses."""

    name: str
    source: str
    target: str
    texts: tuple[str, ...]
    expr: str
    loop: tuple[str, ...]
    params: tuple[str, ...]


def _step(name: str, types: str, expr: str, loop: tuple[str, ...], texts: tuple[str, ...]) -> Step:
    used = set(re.findall(r"\{([kcds])\}", " ".join((expr, *loop, *texts))))
    return Step(name, types[0], types[1], texts, expr, loop, tuple(sorted(used)))


def _append(target: str, body: str) -> str:
    return f"{{o}} += {body}" if target in "SI" else f"{{o}}.append({body})"


def _each(name: str, types: str, body: str, *texts: str) -> Step:
    """Every element becomes ``body``."""
    v, target = ELEMENT[types[0]], types[1]
    inner = f"{body} for {v} in {{x}}"
    expr = f'"".join({inner})' if target == "S" else f"[{inner}]"
    loop = (f"{{o}} = {_EMPTY[target]}", f"for {v} in {{x}}:", f"    {_append(target, body)}")
    return _step(name, types, expr, loop, texts)


def _indexed(name: str, types: str, body: str, *texts: str) -> Step:
    """Every element becomes ``body``, which uses its index ``i``."""
    v = ELEMENT[types[0]]
    head = f"for i, {v} in enumerate({{x}})"
    loop = (f"{{o}} = {_EMPTY[types[1]]}", f"{head}:", f"    {_append(types[1], body)}")
    return _step(name, types, f"[{body} {head}]", loop, texts)


def _keep(name: str, kind: str, condition: str, *texts: str) -> Step:
    """The elements for which ``condition`` holds."""
    v = ELEMENT[kind]
    inner = f"{v} for {v} in {{x}} if {condition}"
    loop = (
        f"{{o}} = {_EMPTY[kind]}",
        f"for {v} in {{x}}:",
        f"    if {condition}:",
        f"        {_append(kind, v)}",
    )
    expr = f'"".join({inner})' if kind == "S" else f"[{inner}]"
    return _step(name, kind * 2, expr, loop, texts)


def _slice(name: str, kind: str, part: str, condition: str, *texts: str) -> Step:
    """The elements whose index ``i`` meets ``condition``; ``part`` is the slice."""
    v = ELEMENT[kind]
    loop = (
        f"{{o}} = {_EMPTY[kind]}",
        f"for i, {v} in enumerate({{x}}):",
        f"    if {condition}:",
        f"        {_append(kind, v)}",
    )
    return _step(name, kind * 2, f"{{x}}[{part}]", loop, texts)


def _total(name: str, kind: str, body: str, condition: str, *texts: str) -> Step:
    """The sum of ``body`` over the elements for which ``condition`` holds (empty: all)."""
    v = ELEMENT[kind]
    where = f" if {condition}" if condition else ""
    body_line = f"{{o}} += {body}"
    inner = (f"    if {condition}:", f"        {body_line}") if condition else (f"    {body_line}",)
    loop = ("{o} = 0", f"for {v} in {{x}}:", *inner)
    return _step(name, kind + "I", f"sum({body} for {v} in {{x}}{where})", loop, texts)


def _best(name: str, types: str, expr: str, better: str, *texts: str) -> Step:
    """The first element that is ``better`` than every one before it."""
    v, empty = ELEMENT[types[0]], _EMPTY[types[1]]
    loop = (
        f"{{o}} = {empty}",
        f"for i, {v} in enumerate({{x}}):",
        f"    if i == 0 or {better}:",
        f"        {{o}} = {v}",
    )
    return _step(name, types, expr, loop, texts)


def _direct(name: str, types: str, expr: str, *texts: str) -> Step:
    """A step that needs no loop."""
    return _step(name, types, expr, (f"{{o}} = {expr}",), texts)


def _new_only(name: str, kind: str, expr: str, *texts: str) -> Step:
    v = ELEMENT[kind]
    loop = (
        f"{{o}} = {_EMPTY[kind]}",
        f"for {v} in {{x}}:",
        f"    if {v} not in {{o}}:",
        f"        {_append(kind, v)}",
    )
    return _step(name, kind * 2, expr, loop, texts)


def _sorted(name: str, kind: str, options: str, *texts: str) -> Step:
    v = ELEMENT[kind]
    loop = ("{o} = []", f"for {v} in {{x}}:", f"    {{o}}.append({v})", f"{{o}}.sort({options})")
    comma = ", " if options else ""
    return _step(name, kind * 2, f"sorted({{x}}{comma}{options})", loop, texts)


def _flipped(name: str, kind: str, *texts: str) -> Step:
    v = ELEMENT[kind]
    body = f"{{o}} = {v} + {{o}}" if kind == "S" else f"{{o}}.insert(0, {v})"
    loop = (f"{{o}} = {_EMPTY[kind]}", f"for {v} in {{x}}:", f"    {body}")
    return _step(name, kind * 2, "{x}[::-1]", loop, texts)


def _joined(name: str, kind: str, body: str, *texts: str) -> Step:
    """The elements in one text with the separator between them."""
    v = ELEMENT[kind]
    loop = (
        '{o} = ""',
        f"for i, {v} in enumerate({{x}}):",
        "    if i > 0:",
        '        {o} += "{s}"',
        f"    {{o}} += {body}",
    )
    inner = "{x}" if body == v else f"{body} for {v} in {{x}}"
    return _step(name, kind + "S", f'"{{s}}".join({inner})', loop, texts)


# fmt: off
_NUMBERS = (
    _keep(
        "keep_above", "L", "v > {k}", "keep the numbers greater than {k}",
        "keep only values above {k}", "remove every number that is {k} or less"),
    _keep(
        "keep_below", "L", "v < {k}", "keep the numbers less than {k}",
        "keep only values below {k}", "remove every number that is {k} or more"),
    _keep("keep_even", "L", "v % 2 == 0", "keep the even numbers", "remove the odd numbers"),
    _keep("keep_odd", "L", "v % 2 == 1", "keep the odd numbers", "remove the even numbers"),
    _keep(
        "keep_positive", "L", "v > 0", "keep the positive numbers", "keep only numbers above zero"),
    _keep(
        "keep_negative", "L", "v < 0", "keep the negative numbers", "keep only numbers below zero"),
    _keep(
        "keep_multiples", "L", "v % {k} == 0", "keep the multiples of {k}",
        "keep the numbers divisible by {k}"),
    _keep(
        "drop_multiples", "L", "v % {k} != 0", "remove the multiples of {k}",
        "remove the numbers divisible by {k}"),
    _each("add", "LL", "v + {k}", "add {k} to each number", "increase every number by {k}"),
    _each(
        "subtract", "LL", "v - {k}", "subtract {k} from each number",
        "decrease every number by {k}"),
    _each("multiply", "LL", "v * {k}", "multiply each number by {k}", "scale every number by {k}"),
    _each(
        "floor_divide", "LL", "v // {k}", "floor-divide each number by {k}",
        "divide every number by {k}, rounding down"),
    _each(
        "remainder", "LL", "v % {k}", "take each number modulo {k}",
        "replace every number by its remainder by {k}"),
    _each("square", "LL", "v * v", "square each number", "replace every number by its square"),
    _each("negate", "LL", "-v", "negate each number", "flip the sign of every number"),
    _each(
        "absolute", "LL", "abs(v)", "take the absolute value of each number",
        "make every number non-negative by dropping its sign"),
    _each("cap", "LL", "min(v, {k})", "cap each number at {k}", "replace numbers above {k} by {k}"),
    _each(
        "raise_to", "LL", "max(v, {k})", "raise each number to at least {k}",
        "replace numbers below {k} by {k}"),
    _indexed(
        "times_index", "LL", "v * i", "multiply each number by its index",
        "scale every number by its position from 0"),
    _indexed(
        "plus_index", "LL", "v + i", "add its index to each number",
        "increase every number by its position from 0"),
    _sorted("sort", "L", "", "sort the numbers ascending", "put the numbers in increasing order"),
    _sorted(
        "sort_down", "L", "reverse=True", "sort the numbers descending",
        "put the numbers in decreasing order"),
    _flipped("flip", "L", "reverse the list", "put the list in reverse order"),
    _new_only(
        "distinct", "L", "list(dict.fromkeys({x}))", "remove repeated numbers",
        "keep the first occurrence of each number"),
    _slice(
        "first", "L", ":{k}", "i < {k}", "take the first {k} numbers",
        "keep only the first {k} items"),
    _slice(
        "last", "L", "-{k}:", "i >= len({x}) - {k}", "take the last {k} numbers",
        "keep only the last {k} items"),
    _slice(
        "skip", "L", "{k}:", "i >= {k}", "drop the first {k} numbers", "skip the first {k} items"),
    _slice(
        "every", "L", "::{k}", "i % {k} == 0", "take every {k}-th number from the first",
        "keep the items whose index is divisible by {k}"),
    _each(
        "number_text", "LW", "str(v)", "turn each number into text",
        "convert every number to a string"),
    _each(
        "number_tag", "LW", '"{c}" + str(v)', "write {c} before each number",
        "tag every number with the prefix {c}"),
    _each(
        "parity_word", "LW", '"even" if v % 2 == 0 else "odd"',
        "replace each number by the word even or odd", "name the parity of every number"),
    _joined(
        "join_numbers", "L", "str(v)", "join the numbers with {s}",
        "write the numbers in one text separated by {s}"),
    _total("sum", "L", "v", "", "return the sum", "add up the numbers"),
    _total(
        "sum_squares", "L", "v * v", "", "return the sum of the squares",
        "add up the squares of the numbers"),
    _total(
        "sum_even", "L", "v", "v % 2 == 0", "return the sum of the even numbers",
        "add up only the even numbers"),
    _total(
        "count_even", "L", "1", "v % 2 == 0", "count the even numbers",
        "return how many numbers are even"),
    _total(
        "count_above", "L", "1", "v > {k}", "count the numbers greater than {k}",
        "return how many values are above {k}"),
    _total(
        "count_equal", "L", "1", "v == {k}", "count how often {k} occurs",
        "return how many numbers equal {k}"),
    _total(
        "count_negative", "L", "1", "v < 0", "count the negative numbers",
        "return how many numbers are below zero"),
    _best(
        "largest", "LI", "max({x}, default=0)", "v > {o}",
        "return the largest number or 0 if there is none", "find the maximum, 0 for an empty list"),
    _best(
        "smallest", "LI", "min({x}, default=0)", "v < {o}",
        "return the smallest number or 0 if there is none", "find the minimum, 0 for an empty list"
    ),
    _direct("length", "LI", "len({x})", "return how many numbers there are", "count the numbers"),
)
_WORDS = (
    _each(
        "upper_words", "WW", "w.upper()", "make each word upper case",
        "capitalise every letter of each word"),
    _each("flip_words", "WW", "w[::-1]", "reverse each word", "spell every word backwards"),
    _each(
        "head_words", "WW", "w[:{k}]", "cut each word to its first {k} letters",
        "keep at most {k} letters of every word"),
    _each(
        "tail_words", "WW", "w[1:]", "remove the first letter of each word",
        "drop the initial of every word"),
    _each("double_words", "WW", "w * 2", "write each word twice in a row", "double every word"),
    _each(
        "suffix_words", "WW", 'w + "{c}"', "add the letter {c} after each word",
        "append {c} to every word"),
    _each(
        "prefix_words", "WW", '"{c}" + w', "add the letter {c} before each word",
        "put {c} in front of every word"),
    _each(
        "strip_letter", "WW", 'w.replace("{c}", "")', "remove the letter {c} from each word",
        "delete every {c} inside the words"),
    _each(
        "swap_letter", "WW", 'w.replace("{c}", "{d}")', "replace {c} by {d} in each word",
        "change every {c} in the words to {d}"),
    _keep(
        "keep_longer", "W", "len(w) > {k}", "keep the words longer than {k}",
        "keep only words with more than {k} letters"),
    _keep(
        "keep_shorter", "W", "len(w) < {k}", "keep the words shorter than {k}",
        "keep only words with fewer than {k} letters"),
    _keep(
        "keep_with", "W", '"{c}" in w', "keep the words with the letter {c}",
        "remove words without {c}"),
    _keep(
        "drop_with", "W", '"{c}" not in w', "remove the words with the letter {c}",
        "keep only words without {c}"),
    _keep(
        "keep_start", "W", 'w.startswith("{c}")', "keep the words starting with {c}",
        "keep only words that begin with {c}"),
    _keep(
        "drop_end", "W", 'not w.endswith("{c}")', "remove the words ending with {c}",
        "keep only words that do not end with {c}"),
    _sorted(
        "sort_words", "W", "", "sort the words alphabetically",
        "put the words in alphabetical order"),
    _sorted(
        "sort_length", "W", "key=len", "sort the words by length",
        "put the shorter words first, keeping ties in order"),
    _flipped("flip_order", "W", "reverse the order of the words", "put the words in reverse order"),
    _new_only(
        "distinct_words", "W", "list(dict.fromkeys({x}))", "remove repeated words",
        "keep the first occurrence of each word"),
    _slice(
        "first_words", "W", ":{k}", "i < {k}", "take the first {k} words",
        "keep only the first {k} words"),
    _slice(
        "skip_words", "W", "{k}:", "i >= {k}", "drop the first {k} words",
        "skip the first {k} words"),
    _each(
        "lengths", "WL", "len(w)", "take the length of each word",
        "replace every word by its number of letters"),
    _each(
        "count_in_words", "WL", 'w.count("{c}")', "count the letter {c} in each word",
        "replace every word by how often {c} occurs in it"),
    _total(
        "total_length", "W", "len(w)", "", "return the total length of the words",
        "add up the lengths of the words"),
    _total(
        "count_with", "W", "1", '"{c}" in w', "count the words with the letter {c}",
        "return how many words contain {c}"),
    _total(
        "count_longer", "W", "1", "len(w) > {k}", "count the words longer than {k}",
        "return how many words have more than {k} letters"),
    _direct("word_count", "WI", "len({x})", "return how many words there are", "count the words"),
    _best(
        "longest", "WS", 'max({x}, key=len, default="")', "len(w) > len({o})",
        "return the first longest word or an empty text",
        "find the longest word, the first of equals"),
    _joined(
        "join_words", "W", "w", "join the words with {s}",
        "write the words in one text separated by {s}"),
    _each(
        "initials", "WS", "w[:1]", "join the first letters of the words",
        "write the initials of the words in one text"),
)
_TEXT = (
    _each("upper", "SS", "ch.upper()", "make the text upper case", "capitalise every letter"),
    _each(
        "lower", "SS", "ch.lower()", "make the text lower case", "turn every letter to lower case"),
    _each("double_chars", "SS", "ch * 2", "write each character twice", "double every character"),
    _each(
        "swap_char", "SS", '"{d}" if ch == "{c}" else ch', "replace {c} by {d}",
        "change every {c} to {d}"),
    _keep(
        "drop_vowels", "S", 'ch.lower() not in "aeiou"', "remove the vowels", "delete every vowel"),
    _keep("drop_spaces", "S", 'ch != " "', "remove the spaces", "delete every space"),
    _keep("drop_char", "S", 'ch != "{c}"', "remove the letter {c}", "delete every {c}"),
    _keep(
        "keep_digits", "S", "ch.isdigit()", "keep only the digits", "remove everything but digits"),
    _keep(
        "keep_letters", "S", "ch.isalpha()", "keep only the letters",
        "remove everything but letters"),
    _flipped("backwards", "S", "reverse the text", "spell the text backwards"),
    _new_only(
        "distinct_chars", "S", '"".join(dict.fromkeys({x}))', "remove repeated characters",
        "keep the first occurrence of each character"),
    _slice(
        "head", "S", ":{k}", "i < {k}", "take the first {k} characters",
        "cut the text to {k} characters"),
    _slice(
        "tail", "S", "-{k}:", "i >= len({x}) - {k}", "take the last {k} characters",
        "keep only the last {k} characters"),
    _slice(
        "behead", "S", "{k}:", "i >= {k}", "drop the first {k} characters",
        "skip the first {k} characters"),
    _slice(
        "every_char", "S", "::{k}", "i % {k} == 0", "take every {k}-th character from the first",
        "keep the characters whose index is divisible by {k}"),
    _direct(
        "ending", "SS", '{x} + "{c}"', "add the letter {c} at the end", "append {c} to the text"),
    _direct(
        "split", "SW", "{x}.split()", "split the text into words", "take the words of the text"),
    _each("chars", "SW", "ch", "split the text into characters", "list the characters"),
    _step(
        "digits", "SL", "[int(ch) for ch in {x} if ch.isdigit()]",
        ("{o} = []", "for ch in {x}:", "    if ch.isdigit():", "        {o}.append(int(ch))"),
        ("list the digits as numbers", "take the digits of the text as numbers")),
    _step(
        "positions", "SL", '[i for i, ch in enumerate({x}) if ch == "{c}"]', ("{o} = []",
        "for i, ch in enumerate({x}):", '    if ch == "{c}":', "        {o}.append(i)"),
        ("list the positions of the letter {c}", "find every index where {c} stands")),
    _direct("size", "SI", "len({x})", "return the length of the text", "count the characters"),
    _total(
        "count_vowels", "S", "1", 'ch.lower() in "aeiou"', "count the vowels",
        "return how many vowels there are"),
    _total(
        "count_char", "S", "1", 'ch == "{c}"', "count the letter {c}",
        "return how often {c} occurs"),
    _total(
        "count_digits", "S", "1", "ch.isdigit()", "count the digits",
        "return how many digits there are"),
    _total(
        "digit_sum", "S", "int(ch)", "ch.isdigit()", "return the sum of the digits",
        "add up the digits in the text"),
)
_NUMBER = (
    _direct("plus", "II", "{x} + {k}", "add {k}", "increase the number by {k}"),
    _direct("minus", "II", "{x} - {k}", "subtract {k}", "decrease the number by {k}"),
    _direct("times", "II", "{x} * {k}", "multiply by {k}", "scale the number by {k}"),
    _direct(
        "modulo", "II", "{x} % {k}", "take the remainder by {k}", "reduce the number modulo {k}"),
    _direct(
        "halve", "II", "{x} // {k}", "floor-divide by {k}",
        "divide the number by {k}, rounding down"),
    _direct("size_of", "II", "abs({x})", "take the absolute value", "drop the sign of the number"),
    _direct(
        "as_text", "IS", "str({x})", "turn the number into text", "convert the number to a string"),
    _step(
        "digit_list", "IL", "[int(ch) for ch in str(abs({x}))]",
        ("{o} = []", "for ch in str(abs({x})):", "    {o}.append(int(ch))"),
        ("list the digits of the number", "take the decimal digits, ignoring the sign")),
    _step(
        "multiples", "IL", "[i * {x} for i in range(1, {k} + 1)]",
        ("{o} = []", "for i in range(1, {k} + 1):", "    {o}.append(i * {x})"),
        ("list the first {k} multiples of the number", "list the number times 1 up to {k}")),
)
# fmt: on

STEPS: dict[str, Step] = {s.name: s for s in (*_NUMBERS, *_WORDS, *_TEXT, *_NUMBER)}
