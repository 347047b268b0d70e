"""A grid's arms are what its axes mean, once each; what means nothing is named with its line."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from persd.errors import UserError
from persd.experiment.grid import Arm, ArmTable, Grid, GridTable, load_grid
from persd.experiment.paper import paper_row
from persd.records import VARIANTS

SHORT = """[experiment]
dir = "runs/g"
variants = ["stand", "persd"]

[[arm]]
variant = "stand"
match = { size = "persd" }

[[student]]
name = "lab"
model = "lab"

[[student]]
name = "big"
model = "some/student"
train = { lr = 1e-4 }

[tasks]
source = "lab"

[teacher]
model = "lab"

[train]
lr = 1e-3
epochs = 2
"""

SHIPPED = {
    "main": ["base", *VARIANTS],
    "paper-main": ["base", *VARIANTS],
    "data-efficiency": [
        "base",
        "stand",
        "stand, size of persd",
        "stand, money of persd",
        "stand, steps of persd",
        "persd",
        "persd on 60",
        "persd, money of stand",
        "persd, steps of stand",
    ],
    "rounds": [
        "base",
        "persd",
        "persd round 2",
        "persd rounds 1+2",
        "persd-combined",
        "persd-combined round 2",
        "persd-combined rounds 1+2",
    ],
    "mixing": [
        "base",
        "stand",
        "persd",
        "persd-refine",
        "persd-combined",
        "stand+persd",
        "stand+persd-refine",
        "stand+persd-combined",
    ],
    "replay": [
        "base",
        "persd",
        "persd, 20 % replay",
        "persd, 40 % replay",
        "persd-combined",
        "persd-combined, 20 % replay",
    ],
    "feedback": [
        "base",
        "base, no feedback",
        "persd",
        "persd, no feedback",
        "persd-refine",
        "persd-refine, no feedback",
        "persd-combined",
        "persd-combined, no feedback",
    ],
    "teacher-prompts": [
        "base",
        *("inpd", "inpd, free prompt", "inpd, blind prompt"),
        *("persd", "persd, free prompt", "persd, blind prompt"),
        *("persd-combined", "persd-combined, free prompt", "persd-combined, blind prompt"),
    ],
    "cross-model": [
        "base",
        "stand",
        "persd",
        "persd of {}",
        "persd-combined",
        "persd-combined of {}",
    ],
}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "g.toml"
    path.write_text(text)
    return path


def grid(tmp_path: Path, overrides: Sequence[str] = (), text: str = SHORT) -> Grid:
    return load_grid(write(tmp_path, text), overrides)


def rows(found: Grid, student: str = "lab", seed: int = 0) -> list[str]:
    return [a.name for a in found.arms() if (a.student, a.seed) == (student, seed)]


# -- what is shipped ------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("persd") / "configs" / "experiments"))
    return {path.stem: path for path in folder.glob("*.toml")}


def test_a_shipped_grid_is_found_beside_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "replay").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_grid("replay").arms()


def test_every_shipped_grid_is_looked_at() -> None:
    assert set(shipped()) == set(SHIPPED)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_grid_has_the_rows_it_is_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "students" / "lab-1").mkdir(parents=True)
    found = load_grid(shipped()[name])
    students = [row.name for row in found.table.student]
    for seed in found.table.experiment.seeds:
        for i, student in enumerate(students):
            other = students[1 - i] if len(students) == 2 else ""
            wanted = [r.format(other) for r in SHIPPED[name]]
            if found.table.evaluate.seed is not None and seed != found.table.experiment.seeds[0]:
                # on the same held-out tasks the untrained student is the same for every seed
                wanted = [r for r in wanted if not r.startswith("base")]
            assert rows(found, student, seed) == wanted
    assert all(found.config(c).run.dir for c in found.collections())


def test_a_shipped_grid_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_grid("main").arms() == load_grid(shipped()["main"]).arms()
    assert load_grid("main.toml").arms() == load_grid("main").arms()
    with pytest.raises(UserError, match="cannot read"):
        load_grid("here/main.toml")
    (tmp_path / "main.toml").write_text("[experiment]\n")
    with pytest.raises(UserError, match=r"main\.toml"):
        load_grid("main.toml")  # one's own comes first


@pytest.mark.parametrize("name", ["main", "paper-main"])
def test_the_main_grids_have_the_papers_rows(name: str) -> None:
    arms = load_grid(shipped()[name]).arms()
    assert {paper_row(arm) for arm in arms} == {None, *VARIANTS}


def test_a_student_to_be_made_is_told_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = shipped()["cross-model"]
    with pytest.raises(UserError) as caught:
        load_grid(path)
    told = caught.value.one_line()
    line = path.read_text().splitlines().index('model = "./students/lab-1"') + 1
    assert told.startswith(f"{path}:{line}: ")
    assert "python -m persd.lab.pretrain --out ./students/lab-1 --seed 1" in told


# -- arms -----------------------------------------------------------------------------------


def test_the_papers_order_whatever_the_files(tmp_path: Path) -> None:
    found = grid(
        tmp_path,
        [
            'experiment.variants=["persd+stand", "persd", "inpd", "stand"]',
            "experiment.seeds=[3, 1]",
        ],
    )
    names = ["base", "stand", "stand, size of persd", "inpd", "persd", "stand+persd"]
    assert rows(found, "lab", 3) == rows(found, "big", 1) == names
    assert [(a.student, a.seed) for a in found.arms()][:3] == [("lab", 3), ("lab", 1), ("lab", 3)]


def test_what_makes_no_difference_is_merged(tmp_path: Path) -> None:
    axes = [
        'experiment.variants=["stand", "persd"]',
        'experiment.rounds=["1", "2"]',
        "experiment.feedback=[true, false]",
        'experiment.prompts=["close", "blind"]',
        'experiment.data_of=["own", "lab"]',
        "arm=[]",
    ]
    names = rows(grid(tmp_path, axes))
    assert names[:2] == ["base", "stand"]
    assert len(names) == 2 + 2 * 2 * 2  # of persd: rounds, feedback, prompts; "lab" is its own
    # from the second step on the student's prompt shows the feedback, or not
    assert rows(grid(tmp_path, [*axes, "evaluate.steps=2"]))[:4] == [
        "base",
        "base, no feedback",
        "stand",
        "stand, no feedback",
    ]
    assert "stand+persd of big" in rows(
        grid(
            tmp_path,
            ['experiment.variants=["persd+stand"]', 'experiment.data_of=["big"]', "arm=[]"],
        )
    )


def test_the_untrained_student_is_scored_once_on_one_draw(tmp_path: Path) -> None:
    seeds = "experiment.seeds=[0, 1]"
    bases = [a.seed for a in grid(tmp_path, [seeds]).arms() if not a.variants]
    assert bases == [0, 1, 0, 1]
    one_draw = grid(tmp_path, [seeds, "evaluate.seed=7"])
    assert [(a.student, a.seed) for a in one_draw.arms() if not a.variants] == [
        ("lab", 0),
        ("big", 0),
    ]
    assert "base" not in rows(grid(tmp_path, ["experiment.base=false"]))


def test_a_row_beside_takes_the_first_of_each_axis(tmp_path: Path) -> None:
    text = SHORT + '[[arm]]\nvariant = "persd"\nstudent = "big"\nsize = 12\ntrain = { lr = 0.5 }\n'
    found = grid(tmp_path, ['experiment.prompts=["blind", "close"]'], text)
    assert "persd on 12, blind prompt, lr 0.5" in rows(found, "big")
    assert "persd on 12, blind prompt, lr 0.5" not in rows(found, "lab")


def test_training_is_the_tables_then_the_students_then_the_rows(tmp_path: Path) -> None:
    text = SHORT + '[[arm]]\nvariant = "persd"\ntrain = { epochs = 5.0 }\n'
    found = grid(tmp_path, (), text)
    told = {
        (a.student, a.name): (found.train(a).lr, found.train(a).epochs)
        for a in found.arms()
        if a.variants == ("persd",)
    }
    assert told == {
        ("lab", "persd"): (1e-3, 2),
        ("lab", "persd, epochs 5.0"): (1e-3, 5),
        ("big", "persd"): (1e-4, 2),
        ("big", "persd, epochs 5.0"): (1e-4, 5),
    }
    assert found.student("big").model == "some/student"
    assert found.config(found.collections()[-1]).train.lr == 1e-4


def test_a_match_knows_its_reference(tmp_path: Path) -> None:
    text = SHORT + '[[arm]]\nvariant = "stand"\nrounds = "1+2"\nmatch = { steps = "persd" }\n'
    found = grid(tmp_path, ['experiment.rounds=["1", "1+2"]', "experiment.sizes=[0.25, 1.0]"], text)
    names = {a.name: found.reference(a) for a in found.arms() if a.student == "big"}
    matched = {name: ref for name, ref in names.items() if ref is not None}
    assert {name: ref.name for name, ref in matched.items()} == {
        "stand, size of persd": "persd",  # all of persd, although a quarter comes first
        "stand 25 % rounds 1+2, steps of persd": "persd rounds 1+2",
    }
    assert {ref.student for ref in matched.values()} == {"big"}


# -- collections ----------------------------------------------------------------------------


def test_collections_are_what_the_arms_need(tmp_path: Path) -> None:
    found = grid(
        tmp_path,
        [
            'experiment.rounds=["1", "1+2"]',
            "experiment.feedback=[true, false]",
            'experiment.variants=["stand", "persd", "persd-combined"]',
            'experiment.promote="persd"',
        ],
    )
    assert [c.name for c in found.collections()] == [
        "lab-seed0",
        "lab-seed0-no-feedback",
        "big-seed0",
        "big-seed0-no-feedback",
    ]
    for collection in found.collections():
        config = found.config(collection)
        assert config.run.dir == str(Path("runs/g/collect") / collection.name)
        assert (config.run.rounds, config.run.promoted) == (2, "persd")
        assert config.run.feedback is collection.feedback
        assert config.student == found.student(collection.student)
    assert {found.collection(a) for a in found.arms() if a.variants} == set(found.collections())
    assert {found.collection(a) for a in found.arms() if not a.variants} == {None}


def test_examples_of_another_student_come_from_its_collection(tmp_path: Path) -> None:
    found = grid(tmp_path, ['experiment.data_of=["big"]', 'experiment.prompts=["blind"]', "arm=[]"])
    by_name = {a.name: a for a in found.arms() if a.student == "lab"}
    collection = found.collection(by_name["persd of big, blind prompt"])
    assert collection is not None
    assert collection.name == "big-seed0-blind"
    assert [t.prompt for t in found.config(collection).teacher] == ["blind"]


def test_the_last_set_attempts_in_the_next_round(tmp_path: Path) -> None:
    found = grid(tmp_path, ['experiment.variants=["persd", "inpd"]', 'experiment.rounds=["2"]'])
    assert {c.promote for c in found.collections()} == {"inpd"}
    assert {c.rounds for c in found.collections()} == {2}


# -- faults ---------------------------------------------------------------------------------


def changed(old: str, new: str) -> str:
    assert old in SHORT
    return SHORT.replace(old, new)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (changed('"stand", "p', '"stnd", "p'), 3, "unknown variant 'stnd'; did you mean stand?"),
        (changed('"stand", "p', '"stand+xyz", "p'), 3, "unknown variant 'xyz'; known: stand, inpd"),
        (changed('"stand", "p', '"persd+persd", "p'), 3, "mixes persd with itself"),
        (changed('["stand", "persd"]', "[]"), 3, "experiment.variants"),
        (changed("dir =", "seeds = []\ndir ="), 2, "experiment.seeds"),
        (changed("dir =", "seed = [1]\ndir ="), 2, "did you mean seeds?"),
        (changed("dir =", "sizes = [1]\ndir ="), 2, "all of them are 1.0"),
        (changed("dir =", "sizes = [1.2]\ndir ="), 2, "experiment.sizes = 1.2"),
        (changed("dir =", 'rounds = ["0"]\ndir ='), 2, "names no rounds"),
        (changed("dir =", 'rounds = ["1+1"]\ndir ='), 2, "names a round twice"),
        (changed("dir =", 'prompts = ["far"]\ndir ='), 2, "experiment.prompts = 'far'"),
        (changed("dir =", 'data_of = ["bigg"]\ndir ='), 2, "did you mean big?"),
        (changed("dir =", 'equal = ["tokens"]\ndir ='), 2, "experiment.equal = 'tokens'"),
        (changed("dir =", 'promote = "base"\ndir ='), 2, "experiment.promote = 'base'"),
        (changed('size = "persd"', 'size = "inpd"'), 7, "the grid has no inpd"),
        (changed('size = "persd"', 'sise = "persd"'), 7, "did you mean size?"),
        (changed('size = "persd"', 'size = "persd", usd = "persd"'), 7, "give one of size"),
        (changed('size = "persd" }', 'size = "persd" }\nsize = 0.5'), 5, "and so does size"),
        (changed('size = "persd" }', 'steps = "persd" }\nequal = "steps"'), 5, "so does equal"),
        (changed('size = "persd" }', 'size = "persd" }\nrounds = "2"'), 7, "the grid has no persd"),
        (
            changed('size = "persd" }', 'size = "persd" }\nstudent = "own"'),
            8,
            "no student is named",
        ),
        (changed('name = "big"', 'name = "lab"'), 14, "two students are named lab"),
        (changed('name = "big"', 'name = "own"'), 14, '"own" means the student itself'),
        (changed('name = "big"', 'name = "a/b"'), 14, "student.name = 'a/b'"),
        (changed('name = "big"\n', ""), 13, "student.name is missing"),
        (changed("lr = 1e-4", "lrr = 1e-4"), 16, "unknown key student.train.lrr; did you mean lr?"),
        (changed("lr = 1e-4", "lr = -1.0"), 16, "student.train.lr = -1.0"),
        (changed('"some/student"', '"./absent"'), 15, "persd.lab.pretrain --out ./absent"),
        (changed('"some/student"', '"recorded:x"'), 15, "cannot be trained"),
        (
            changed('"some/student"', '"s"\nbase_url = "http://127.0.0.1:1"'),
            16,
            "is served and cannot",
        ),
        (
            changed('[teacher]\nmodel = "lab"', '[teacher]\nmodel = "lab"\nprompt = "free"'),
            23,
            "prompts",
        ),
        (
            changed('[teacher]\nmodel = "lab"', '[teacher]\nmodel = "lab"\ndirect = "none"'),
            23,
            "variant stand needs direct answers",
        ),
        (changed('"some/student"', '"some/student"\nmode = "batch"'), 13, "with a Batch API"),
        (changed('source = "lab"', 'source = "labs"'), 19, "tasks.source = 'labs'"),
    ],
)
def test_a_fault_names_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_grid(path)
    told = caught.value.one_line()
    assert says in told
    assert told.startswith(f"{path}:{line}: ")
    assert told.endswith(f"persd experiment {path}")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the config.*persd experiment GRID.toml"):
        load_grid(tmp_path / "absent.toml")


def test_a_bad_override_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--set experiment\.data_of: .*'nobody'"):
        grid(tmp_path, ['experiment.data_of=["nobody"]'])


# -- whatever the axes ----------------------------------------------------------------------

mixes = st.lists(st.sampled_from(VARIANTS), min_size=1, max_size=2, unique=True).map("+".join)
sizes = st.floats(0.01, 1.0) | st.integers(2, 10_000)
some_rounds = st.sampled_from(["1", "2", "1+2", "2+1", "3"])


def axis(values: st.SearchStrategy[object], most: int = 3) -> st.SearchStrategy[list[object]]:
    return st.lists(values, min_size=1, max_size=most)


tables = st.fixed_dictionaries(
    {
        "dir": st.just("runs/g"),
        "seeds": axis(st.integers(0, 3)),
        "variants": axis(mixes, 4),
        "sizes": axis(sizes, 2),
        "rounds": axis(some_rounds, 2),
        "feedback": axis(st.booleans(), 2),
        "prompts": axis(st.sampled_from(["close", "free", "blind"]), 2),
        "data_of": axis(st.sampled_from(["own", "a", "b"]), 2),
        "equal": axis(st.sampled_from(["epochs", "steps"]), 2),
        "base": st.booleans(),
    }
)


def grid_of(table: object, steps: int) -> Grid:
    students = [{"name": name, "model": "lab"} for name in ("a", "b")]
    return Grid(
        GridTable.model_validate(
            {
                "experiment": table,
                "student": students,
                "tasks": {"source": "lab"},
                "teacher": {"model": "lab"},
                "evaluate": {"steps": steps},
            }
        )
    )


@settings(max_examples=60, deadline=None)
@given(table=tables, steps=st.sampled_from([1, 2]))
def test_arms_are_unique_named_apart_and_always_the_same(table: object, steps: int) -> None:
    found = grid_of(table, steps)
    arms = found.arms()
    assert arms == grid_of(table, steps).arms()
    names = [(a.student, a.seed, a.name) for a in arms]
    assert len(arms) == len(set(arms)) == len({a.key for a in arms}) == len(set(names))
    for arm in arms:
        collection = found.collection(arm)
        assert (collection is None) == (not arm.variants)
        assert collection is None or collection.rounds >= max(arm.rounds)
    folders = [c.name for c in found.collections()]
    assert len(set(folders)) == len(folders)


@settings(max_examples=60, deadline=None)
@given(table=tables, data=st.data())
def test_a_row_that_the_product_has_adds_nothing(table: object, data: st.DataObject) -> None:
    found = grid_of(table, 2)
    axes = found.table.experiment
    told = {
        "variant": data.draw(st.sampled_from(axes.variants)),
        "size": data.draw(st.sampled_from(axes.sizes)),
        "rounds": data.draw(st.sampled_from(axes.rounds)),
        "feedback": data.draw(st.sampled_from(axes.feedback)),
        "prompt": data.draw(st.sampled_from(axes.prompts)),
        "data_of": data.draw(st.sampled_from(axes.data_of)),
        "equal": data.draw(st.sampled_from(axes.equal)),
    }
    more = found.table.model_copy(update={"arm": [ArmTable.model_validate(told)]})
    assert Grid(more).arms() == found.arms()


def test_an_arm_is_known_by_its_content() -> None:
    arm = Arm("lab", "own", 0, ("persd",), 1.0, train={"lr": 0.1})
    assert arm.key == Arm("lab", "own", 0, ("persd",), 1.0, train={"lr": 0.1}).key
    assert arm.key != Arm("lab", "own", 0, ("persd",), 1.0, train={"lr": 0.2}).key
