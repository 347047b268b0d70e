"""Every shipped config parses; every fault is named with its line and the next command."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from persd.config import STAGES, asks_more, changed_keys, flatten, load, stage_of, to_json
from persd.errors import UserError

SHORT = """[run]
dir = "runs/x"

[tasks]
source = "mbpp"

[student]
model = "some/student"

[teacher]
model = "some-teacher"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "name",
    sorted(
        p.name
        for p in resources.files("persd").joinpath("configs").iterdir()
        if p.name.endswith(".toml")
    ),
)
def test_shipped_configs_parse(name: str) -> None:
    with resources.as_file(resources.files("persd") / "configs" / name) as path:
        assert load(path).run.variants


def test_defaults_and_overrides(tmp_path: Path) -> None:
    config = load(
        write(tmp_path, SHORT),
        ["run.seed=7", 'run.variants=["persd"]', "student.model=other", "teacher.budget_usd=5"],
    )
    assert config.run.seed == 7
    assert config.run.variants == ["persd"]
    assert config.student.model == "other"
    assert config.teacher[0].budget_usd == 5.0
    assert config.run.promoted == "persd"


def test_unsafe_is_said_in_so_many_words(tmp_path: Path) -> None:
    path = write(tmp_path, SHORT)
    assert load(path).verify.unsafe is False
    assert load(path, ["verify.unsafe=true"]).verify.unsafe is True
    assert load(write(tmp_path, SHORT + "[verify]\nunsafe = true\n")).verify.unsafe is True
    for said in ('"yes"', "1"):
        with pytest.raises(UserError, match=r"verify\.unsafe = "):
            load(path, [f"verify.unsafe={said}"])


def test_a_cascade_of_teachers(tmp_path: Path) -> None:
    text = SHORT.replace("[teacher]", "[[teacher]]") + '\n[[teacher]]\nmodel = "stronger"\n'
    assert [t.model for t in load(write(tmp_path, text)).teacher] == ["some-teacher", "stronger"]


def test_a_fault_in_a_cascade_names_its_own_teacher(tmp_path: Path) -> None:
    text = SHORT.replace("[teacher]", "[[teacher]]") + "max_tries = 2\n"
    path = write(tmp_path, text + '\n[[teacher]]\nmodel = "stronger"\nmax_tries = 0\n')
    with pytest.raises(UserError) as caught:
        load(path)
    assert caught.value.one_line().startswith(f"{path}:16: teacher.max_tries = 0")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (SHORT + "budgt_usd = 5\n", 12, "unknown key teacher.budgt_usd; did you mean budget_usd?"),
        (SHORT + "budget_usd = -1\n", 12, "teacher.budget_usd = -1"),
        (SHORT + '[trian]\nlr = "x"\n', 12, "unknown key trian; did you mean train?"),
        (SHORT.replace('"mbpp"', '"mbp"'), 5, "tasks.source = 'mbp'"),
        (SHORT.replace("dir =", "dir"), 2, "not TOML"),
        (SHORT.replace('model = "some/student"', ""), 7, "student.model is missing"),
        (SHORT.replace('"runs/x"', '"runs/x"\nvariants = ["persdd"]'), 3, "persd-combined"),
        (SHORT + "price = { input = 1.0, outptu = 2.0 }\n", 12, "did you mean output?"),
        (SHORT + 'base_url = "ftp://x"\n', 12, "must start with http"),
        (SHORT + "[evaluate]\nsamples = 5\n", 12, "pass@20 needs at least 20 samples"),
        (SHORT + "max_tries = 1.5\n", 12, "teacher.max_tries = 1.5"),
    ],
)
def test_a_fault_names_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load(path)
    told = caught.value.one_line()
    assert told.startswith(f"{path}:{line}: ")
    assert says in told
    assert f"persd run {path}" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("run.seed", "is not a.b=value"),
        ("tasks.source.x=1", "source is not a table"),
        ("run.rounds=0", "run.rounds = 0"),
        ('teacher.direct="none"', "persd-combined needs direct answers"),
        ('run.promote="stand"', "not among run.variants"),
        ("run.variants=[]", "run.variants"),
    ],
)
def test_a_bad_override(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load(write(tmp_path, SHORT), [override])


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the config.*persd run CONFIG.toml"):
        load(tmp_path / "absent.toml")


def test_changes_are_named_by_key(tmp_path: Path) -> None:
    path = write(tmp_path, SHORT)
    stored = to_json(load(path))
    assert changed_keys(stored, load(path)) == {}
    changed = changed_keys(stored, load(path, ["student.temperature=0.7", "run.rounds=2"]))
    assert changed == {"student.temperature": (0.3, 0.7), "run.rounds": (1, 2)}


def test_every_key_has_a_stage(tmp_path: Path) -> None:
    for key in flatten(load(write(tmp_path, SHORT))):
        assert stage_of(key) in STAGES, key
    assert stage_of("teacher.0.budget_usd") == "free"
    assert stage_of("verify.unsafe") == "free"
    assert stage_of("verify.timeout") == "verify"
    assert stage_of("teacher.0.model") == "teacher"
    assert stage_of("train.lr") == "train"


def test_what_only_asks_more() -> None:
    appended = {
        "teacher.1.model": (None, "strong"),
        "teacher.1.base_url": (None, "http://127.0.0.1:1/v1"),
        "teacher.1.price.input": (None, 1.0),
        "teacher.0.max_tries": (1, 2),
    }
    assert asks_more(appended) == set(appended)
    for key, values in {
        "teacher.0.max_tries": (2, 1),
        "teacher.0.price.input": (None, 1.0),
        "teacher.1.base_url": (None, "http://127.0.0.1:1/v1"),
        "teacher.1.budget_usd": (None, 5.0),
        "teacher.0.stay_close": (None, 0.5),
        "teacher.0.model": ("a", "b"),
    }.items():
        assert asks_more({key: values}) == set(), key
