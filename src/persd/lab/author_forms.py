"""What is wrong with the form of a task that an author writes: its program as a text, its words,
its calls. ``FORMS`` holds the ways by state; each spoils one part of a sound task."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from persd.lab.author_drafts import Desk, Sketch, program_with
from persd.lab.author_twists import Defect, Twist
from persd.records import CandidateState, Proposal

# ---- the program as a text --------------------------------------------------------------------


def _spoilt(change: Callable[[str], str]) -> Defect:
    """A sound task whose program no longer compiles, or is no such program."""

    def make(desk: Desk) -> Proposal:
        while True:
            proposal = desk.sketch().proposal
            if (code := change(proposal.code)) != proposal.code:
                return replace(proposal, code=code)

    return make


def _last_line(change: Callable[[str], str]) -> Callable[[str], str]:
    def edit(code: str) -> str:
        *lines, last = code.rstrip("\n").split("\n")
        return "\n".join([*lines, change(last), ""])

    return edit


_SYNTAX: Mapping[str, Defect] = {
    "no colon": _spoilt(lambda code: code.replace("):\n", ")\n", 1)),
    "open bracket": _spoilt(_last_line(lambda line: f"{line} + (")),
    "closed twice": _spoilt(_last_line(lambda line: f"{line})")),
    "indentation": _spoilt(_last_line(lambda line: f"    x = 0\n  {line}")),
    "open quote": _spoilt(_last_line(lambda line: f"{line} + 'x")),
    "misspelt keyword": _spoilt(lambda code: code.replace("return ", "retrun ")),
    "another language": _spoilt(lambda code: code.replace("):\n", ") {\n", 1) + "}\n"),
    "assignment to a call": _spoilt(_last_line(lambda line: f"    len(x) = 3\n{line}")),
    "two programs in one line": _spoilt(_last_line(lambda line: f"{line} return None")),
}


def _script(code: str) -> str:
    _, *body = code.splitlines()
    lines = [line[4:].replace("return ", "print(", 1) for line in body]
    given = f"{lines[-1]})" if lines[-1].startswith("print(") else lines[-1]
    return "\n".join([f"{_parameter(code)} = input()", *lines[:-1], given, ""])


def _parameter(code: str) -> str:
    return code[code.index("(") + 1 : code.index(")")]


def _method(code: str) -> str:
    inside = "\n".join(f"    {line}" for line in code.splitlines())
    return f"class Solution:\n{inside.replace('def f(', 'def f(self, ', 1)}\n"


def _inner(code: str) -> str:
    inside = "\n".join(f"    {line}" for line in code.splitlines())
    return f"def main():\n{inside}\n    return f\n"


_NO_FUNCTION: Mapping[str, Defect] = {
    "a generator": Twist(last=("yield result",)),
    "a script": _spoilt(_script),
    "a method": _spoilt(_method),
    "another name": _spoilt(lambda code: code.replace("def f(", "def process(")),
    "within a function": _spoilt(_inner),
    "only imports": _spoilt(lambda code: "from collections import Counter\nimport math\n"),
    "only a comment": _spoilt(lambda code: "# the function goes here\n"),
}


def _sized(lines: Callable[[random.Random], list[str]]) -> Defect:
    """A sound program with so many lines of its own."""

    def make(desk: Desk) -> Proposal:
        sketch = desk.sketch()
        code = program_with(sketch, first=lines(desk.rng))
        return replace(sketch, code=code).proposal

    return make


def _assignments(rng: random.Random) -> list[str]:
    return [f"value_{i} = {rng.randint(0, 99)}" for i in range(rng.randint(90, 160))]


def _branches(rng: random.Random) -> list[str]:
    numbers = rng.sample(range(1000), rng.randint(45, 70))
    rows = [[f"elif {{x}} == {n}:", f"    note = 'seen {n}'"] for n in numbers]
    return ["if {x} == -1:", "    note = ''", *(line for row in rows for line in row)]


def _table(rng: random.Random) -> list[str]:
    rows = [f"    {i}: {rng.randint(0, 999)}," for i in range(rng.randint(90, 140))]
    return ["table = {", *rows, "}"]


def _helpers(rng: random.Random) -> list[str]:
    count = rng.randint(45, 60)
    return [line for i in range(count) for line in (f"def step_{i}(v):", f"    return v + {i}")]


_REFERENCE_SIZE: Mapping[str, Defect] = {
    "assignments": _sized(_assignments),
    "branches": _sized(_branches),
    "a table": _sized(_table),
    "helpers": _sized(_helpers),
}


# ---- the words --------------------------------------------------------------------------------


def _worded(words: Callable[[random.Random, Sketch], str]) -> Defect:
    """A sound program under another instruction."""

    def make(desk: Desk) -> Proposal:
        sketch = desk.sketch()
        return replace(sketch, text=words(desk.rng, sketch)).proposal

    return make


_TERSE = ("Sort it.", "Do this.", "Solve.", "A list task.", "Process the input.", "Transform.")
_BEFORE = (
    "the owner of a small shop",
    "a teacher in a village school",
    "somebody who repairs old clocks",
    "a team that counts birds in spring",
    "the editor of a weekly paper",
    "a librarian with too many cards",
)
_DID = (
    "kept notes of everything that was sold on a long afternoon",
    "wanted the records in an order that others can follow",
    "found that the numbers of last year were written down twice",
    "asked a friend to look through the entries once more",
    "read each line aloud and marked the ones that looked odd",
    "could not say why the totals were different every evening",
)


def _story(rng: random.Random, sketch: Sketch) -> str:
    lines = [
        f"On day {i} {rng.choice(_BEFORE)} {rng.choice(_DID)}."
        for i in range(1, rng.randint(34, 48))
    ]
    return " ".join([*lines, "So here is what to do with it.", sketch.text])


def _repeated(rng: random.Random, sketch: Sketch) -> str:
    times = 450 // len(sketch.text.split()) + 1
    return " ".join([sketch.text, *[f"Once more: {sketch.text}"] * times])


def _remarks(rng: random.Random, sketch: Sketch) -> str:
    rows = [f"- Case {i}: think of what {rng.choice(_BEFORE)} did." for i in range(40, 90)]
    return "\n".join([sketch.text, "", *rows])


_INSTRUCTION_SIZE: Mapping[str, Defect] = {
    "terse": _worded(lambda rng, _: rng.choice(_TERSE)),
    "one word": _worded(lambda rng, sketch: sketch.chain[-1].step.name.replace("_", "")),
    "a long story": _worded(_story),
    "said again and again": _worded(_repeated),
    "many remarks": _worded(_remarks),
}

#: By language: what goes in, what is done to it, what comes out.
_FOREIGN: Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "German": (
        ("Schreibe eine Funktion, die eine Liste von Zahlen bekommt", "Gegeben ist ein Text"),
        ("entferne alle doppelten Werte", "sortiere die Werte der Größe nach", "drehe sie um"),
        ("und gib das Ergebnis zurück.", "und liefere danach die Anzahl der Werte."),
    ),
    "French": (
        ("Écris une fonction qui reçoit une liste de nombres", "Pour un texte donné"),
        ("enlève les valeurs répétées", "trie les valeurs dans l'ordre croissant", "inverse-les"),
        ("puis renvoie le résultat.", "et renvoie ensuite le nombre de valeurs."),
    ),
    "Spanish": (
        ("Escribe una función que recibe una lista de números", "Dado un texto cualquiera"),
        ("elimina los valores repetidos", "ordena los valores de menor a mayor", "inviértelos"),
        ("y devuelve el resultado.", "y devuelve después la cantidad de valores."),
    ),
    "Chinese": (
        ("编写一个函数，接收一个整数列表", "给定一段文本"),
        ("删除所有重复的元素", "按从小到大的顺序排序", "把元素的顺序反过来"),
        ("然后返回结果。", "最后返回元素的个数。"),
    ),
    "Russian": (
        ("Напишите функцию, которая получает список чисел", "Дан некоторый текст"),
        ("удалите повторяющиеся значения", "отсортируйте значения по возрастанию", "разверните"),
        ("и верните результат.", "и затем верните количество значений."),
    ),
}


def _in_language(name: str, rng: random.Random, sketch: Sketch) -> str:
    given, done, out = _FOREIGN[name]
    return ", ".join([rng.choice(given), *rng.sample(done, 2), rng.choice(out)])


def _code_alone(rng: random.Random, sketch: Sketch) -> str:
    return f"{sketch.code}\nprint({sketch.calls[0]})\nprint({sketch.calls[1]})"


def _data_alone(rng: random.Random, sketch: Sketch) -> str:
    return "[" + ", ".join(f'{{"{c}": {rng.randint(0, 99)}}}' for c in sketch.calls) + "]"


def _letters(rng: random.Random, sketch: Sketch) -> str:
    words = ["".join(rng.choices("bcdfghjklmnpqrstvwxz", k=rng.randint(3, 9))) for _ in range(14)]
    return " ".join(words)


_LANGUAGE: Mapping[str, Defect] = {
    **{name: _worded(partial(_in_language, name)) for name in _FOREIGN},
    "code": _worded(_code_alone),
    "data": _worded(_data_alone),
    "letters": _worded(_letters),
}


# ---- the calls --------------------------------------------------------------------------------


def _called(calls: Callable[[random.Random, Sketch], Sequence[str]]) -> Defect:
    def make(desk: Desk) -> Proposal:
        sketch = desk.sketch()
        return replace(sketch, calls=tuple(calls(desk.rng, sketch))).proposal

    return make


def _each_as(*forms: str) -> Defect:
    """Calls whose arguments are no literals; ``{i}`` numbers them."""
    return _called(
        lambda rng, sketch: [rng.choice(forms).format(i=i) for i, _ in enumerate(sketch.calls)]
    )


_BAD_CALLS: Mapping[str, Defect] = {
    "names": _each_as("f(data_{i})", "f(my_list_{i})", "f(values[{i}])"),
    "functions": _each_as("f(lambda v: v + {i})", "f(key=lambda v: v * {i})"),
    "objects": _each_as("f(Node({i}))", "f(Point({i}, {i}))", "f(object())"),
    "computed": _each_as("f(list(range({i})))", "f([v * {i} for v in range(9)])", "f('ab' * {i})"),
    "too few": _called(lambda rng, sketch: sketch.calls[: rng.randint(1, 3)]),
    "none": _called(lambda rng, sketch: ()),
    "the same": _called(lambda rng, sketch: sketch.calls[:1] * len(sketch.calls)),
    "another function": _called(
        lambda rng, sketch: [c.replace("f(", "g(", 1) for c in sketch.calls]
    ),
    "an argument too few": _spoilt(lambda code: code.replace("):\n", ", limit):\n", 1)),
    "no calls": _called(lambda rng, sketch: [c[2:-1] for c in sketch.calls]),
}


FORMS: Mapping[CandidateState, Mapping[str, Defect]] = {
    "syntax": _SYNTAX,
    "no_function": _NO_FUNCTION,
    "instruction_size": _INSTRUCTION_SIZE,
    "reference_size": _REFERENCE_SIZE,
    "language": _LANGUAGE,
    "bad_calls": _BAD_CALLS,
}
