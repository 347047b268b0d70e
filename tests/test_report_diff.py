"""Texts and diffs of the report: nothing hidden, no line left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from persd.report import diff, text


@given(st.text(st.characters(codec=None, categories=None)))
def test_a_visible_text_can_be_written_and_hides_nothing(raw: str) -> None:
    shown = text.visible(raw)
    shown.encode("utf-8")
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert text.visible(shown) == shown
    assert shown == raw or not raw.isprintable()


PROGRAMS = st.lists(
    st.text("ab =", max_size=6) | st.sampled_from(["x = 1", "x = 2", "", "    y"]), max_size=12
).map("\n".join)


def lines(program: str) -> list[str]:
    found = program.split("\n")
    while found and not found[-1].strip():
        found.pop()
    return found


@given(PROGRAMS, PROGRAMS)
def test_a_diff_holds_both_programs_whole(old: str, new: str) -> None:
    rows = diff.rows(old, new)
    assert [r.old.text for r in rows if r.old] == lines(old)
    assert [r.new.text for r in rows if r.new] == lines(new)
    assert all(r.old and r.new and r.old.text == r.new.text for r in rows if r.kind == "same")
    column = list(diff.unified(rows))
    assert [line.text for sign, line in column if sign != "+"] == lines(old)
    assert [line.text for sign, line in column if sign != "-"] == lines(new)


def test_a_diff_pairs_the_lines_that_belong_together() -> None:
    rows = diff.rows("a = 1\nb = call(x)\n", "first = None\nb = call(y)\r\n")
    assert [r.kind for r in rows] == ["removed", "added", "changed"]
    assert rows[2].new is not None
    assert rows[2].new.spans == (("b = call(", False), ("y", True), (")", False))
    assert diff.counts(rows) == (2, 2)


def test_a_very_long_program_is_compared_without_delay() -> None:
    old = "\n".join(f"x{i} = {i}" for i in range(4000))
    rows = diff.rows(old, old.replace("x2000 = 2000", "x2000 = 0"))
    assert diff.counts(rows) == (1, 1)
    assert len(rows) == 4000
