"""The claim's bench: what is chosen, and that its words say what its figures say."""

from __future__ import annotations

from typing import Any

from test_kill import load_bench

claim = load_bench("claim")


def told(**by_says: str) -> list[dict[str, Any]]:
    """Every claim with a verdict: ``undecided`` but for those named by their first words."""
    verdicts = {says.replace("_", " "): verdict for says, verdict in by_says.items()}
    return [
        {"says": c.says, "block": block, "verdict": verdicts.get(c.says, "undecided")}
        for c in claim.CLAIMS
        for block in claim.QUICK.blocks
    ]


def sentence(words: list[str], says: str) -> str:
    (found,) = [w for w in words if f": {says}." in w]
    return str(found)


def test_the_gentlest_of_the_best_fine_tunes_is_taken() -> None:
    found = {(1e-3, 2.0, None): 0.5, (3e-4, 2.0, None): 0.5, (1e-3, 4.0, None): 0.4}
    assert claim.best(found) == (3e-4, 2.0, None)
    assert claim.best(found, 4.0) == (1e-3, 4.0, None)


def test_all_rows_get_the_same_trials() -> None:
    for size in (claim.FULL, claim.QUICK):
        assert len(set(size.trials)) == len(size.trials) >= 2
        assert set(size.blocks) >= {"tuned", "steps"}
    assert claim.FULL.fresh not in (claim.QUICK.fresh, claim.VALIDATION)
    rows = [claim.label(row) for row in claim.ROWS]
    assert len(rows) == len(set(rows)) == 9
    assert sum("style-matched" in row for row in rows) == 2


def test_verdicts_follow_the_interval() -> None:
    def score(value: float, low: float, high: float) -> Any:
        return claim.Score(value, (low, high), 10, 0)

    assert claim.verdict(score(0.1, 0.02, 0.2)) == "supported"
    assert claim.verdict(score(-0.1, -0.2, -0.02)) == "contradicted"
    assert claim.verdict(score(0.1, -0.02, 0.2)) == "undecided"
    assert claim.verdict(score(0.1, -1e-17, 0.2)) == "undecided"


def test_words_say_what_came_out_whatever_it_is() -> None:
    words = list(claim.in_words(told(PERsD_beats_StanD="supported"), claim.QUICK))
    assert sentence(words, "PERsD beats StanD").startswith("Supported in every way")
    assert "not above the base" in sentence(words, "PERsD beats StanD")
    assert sentence(words, "InpD beats StanD").startswith("Not decided")
    words = list(claim.in_words(told(PERsD_beats_StanD="contradicted"), claim.QUICK))
    assert "the reverse holds" in sentence(words, "PERsD beats StanD")
    both = told(PERsD_beats_StanD="supported", PERsD_improves_the_student="supported")
    words = list(claim.in_words(both, claim.QUICK))
    assert "not above" not in sentence(words, "PERsD beats StanD")
    assert any("no evidence" in w for w in words)
    assert any("none is corrected" in w for w in words)


def test_mixed_verdicts_are_told_one_by_one() -> None:
    found = told()
    mine = [f for f in found if f["says"] == "PERsD beats StanD"]
    mine[0]["verdict"] = "supported"
    words = list(claim.in_words(found, claim.QUICK))
    assert sentence(words, "PERsD beats StanD").startswith("Supported tuned, undecided equal steps")
