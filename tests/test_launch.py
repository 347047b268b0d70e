"""Training in several processes: the same student as in one, one error, and nobody left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from safetensors.torch import load_file

import tiny
from persd.config import LAUNCHES, TrainTable, stage_of
from persd.errors import UserError, WorkFailed
from persd.models.local import LocalModel
from persd.records import Step
from persd.train import launch, ranks, train
from test_train import EXAMPLES, SETTINGS

#: Of the losses of two processes against one: sums of float32 in another order.
TOLERANCE = 1e-4
CONFIGS = resources.files("persd") / "configs" / "accelerate"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("base") / "tiny", hidden=48, spread=0.05)


def job(base: Path, out: Path, settings: TrainTable = SETTINGS) -> launch.Job:
    return launch.Job(str(base), EXAMPLES, out, settings, "completions", None, False)


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


def processes(folder: Path) -> dict[int, list[str]]:
    """The processes whose command names a folder, and their commands."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode().split("\0")
        except OSError:  # it has ended
            continue
        if str(folder) in command:
            found[int(path.parent.name)] = command
    return found


# 5 rows in batches of 4: the last of an epoch has less rows than there are places for
SHARED = SETTINGS.but(epochs=3, held_out=0.1, micro_batch=1)


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[Step]]:
    """What one process makes of ``SHARED``: the folder, the metrics and the steps."""
    out = tmp_path_factory.mktemp("alone") / "one"
    told: list[Step] = []
    return out, train(str(base), EXAMPLES, out, SHARED, on_step=told.append), told


def fsdp_on_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The shipped configuration on two processes that take the CPU for their GPU."""
    (folder / "sitecustomize.py").write_text(TWO_GPUS)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    config = folder / "fsdp.yaml"
    shipped = (CONFIGS / "fsdp.yaml").read_text()
    config.write_text(f"{shipped}use_cpu: true\nnum_processes: 2\n")
    return str(config)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_the_student_that_one_trains(
    kind: str,
    base: Path,
    alone: tuple[Path, Any, list[Step]],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path_factory.mktemp("config")
    name = "cpu2" if kind == "ddp" else fsdp_on_cpu(place, monkeypatch)
    out, told = tmp_path / "two", []  # type: tuple[Path, list[Step]]
    metrics = train(str(base), EXAMPLES, out, SHARED.but(launch=name), on_step=told.append)

    folder, expected, steps = alone
    assert [(s.step, s.steps, s.tokens) for s in told] == [
        (s.step, s.steps, s.tokens) for s in steps
    ]
    for key in ("loss", "lr", "grad_norm", "held_out"):
        for one, two in zip(steps, told, strict=True):
            wanted = getattr(one, key)
            assert getattr(two, key) == (
                None if wanted is None else pytest.approx(wanted, rel=TOLERANCE)
            )
    expected = expected | {"seconds": metrics["seconds"]}
    assert metrics == pytest.approx(expected, rel=TOLERANCE)

    first, second = (load_file(str(f / "model.safetensors")) for f in (folder, out))
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[k], second[k], atol=TOLERANCE) for k in first)
    manifests = [json.loads((f / "manifest.json").read_text()) for f in (folder, out)]
    assert [m["processes"] for m in manifests] == [1, 2]
    assert manifests[0]["data_hash"] == manifests[1]["data_hash"]
    assert LocalModel(str(out), device="cpu").load()
    assert [p.name for p in tmp_path.iterdir()] == ["two"]
    assert (place / "believed").exists() == (kind == "fsdp")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")
def test_a_killed_launcher_leaves_no_process(base: Path, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(job(base, tmp_path / "out").to_json())
    with subprocess.Popen(
        [sys.executable, "-m", "persd.train.launch", str(CONFIGS / "cpu2.yaml"), str(tmp_path)],
        env={**os.environ, ranks.PARENT: str(os.getpid())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as launcher:
        wait_for(lambda: len(processes(tmp_path)) == 3)  # itself and two
        launcher.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes(tmp_path))
    assert not (tmp_path / "out").exists()


def test_an_error_under_accelerate_launch_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", str(CONFIGS / "cpu2.yaml"), "--module", "persd.cli", "train"),
            *(str(tmp_path / "none"), "--variant", "persd", "--out", str(tmp_path / "out")),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert done.returncode != 0
    assert sum("is not a run" in line for line in lines) == 1
    # the launcher tells of the end of its processes with a traceback of its own, they do not
    assert sum(line.startswith("Traceback") for line in lines) <= 1
    assert not done.stdout
    assert not (tmp_path / "out").exists()


def told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]


def test_a_process_tells_its_steps_and_metrics(base: Path, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(
        job(base, tmp_path / "out", SETTINGS.but(epochs=1)).to_json()
    )
    assert launch.work(tmp_path) == 0
    *steps, last = told(tmp_path)
    assert [s["step"]["step"] for s in steps] == [1, 2]
    assert last["metrics"]["steps"] == 2
    assert LocalModel(str(tmp_path / "out"), device="cpu").load()


def test_a_process_tells_its_error(base: Path, tmp_path: Path) -> None:
    too_short = SETTINGS.but(max_length=8)
    (tmp_path / "job.json").write_text(job(base, tmp_path / "out", too_short).to_json())
    assert launch.work(tmp_path) == 2
    ((kind, error),) = told(tmp_path)[0].items()
    assert kind == "error"
    with pytest.raises(UserError, match=r"the limit is 8.*Raise train\.max_length"):
        raise launch._error(error)


def test_a_job_reads_back_as_it_was(base: Path, tmp_path: Path) -> None:
    written = job(base, tmp_path / "out", SETTINGS.but(method="lora", launch=None))
    assert launch.Job.from_json(written.to_json()) == written


@pytest.mark.parametrize("name", LAUNCHES)
def test_accelerate_takes_every_shipped_configuration(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    path = CONFIGS / f"{name}.yaml"
    told = load_config_from_file(str(path))  # refuses keys it does not know
    given = ["--config_file", str(path), "--num_processes", "2", "--module", "x"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    unknown = {*told.fsdp_config, *told.deepspeed_config} - set(vars(args))
    assert not unknown
    assert (args.use_fsdp, args.use_deepspeed) == (name == "fsdp", name.startswith("zero"))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(told.deepspeed_config)
        _, env = prepare_deepspeed_cmd_env(args)
        assert env["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == name[4]
        offload = "cpu" if name.endswith("offload") else "none"
        assert env["ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE"] == offload
    else:
        env = prepare_multi_gpu_env(args)
        assert env.get("FSDP_VERSION") == ("2" if name == "fsdp" else None)
    assert env["ACCELERATE_MIXED_PRECISION"] == "no"  # train.dtype decides


def test_configurations_that_cannot_be_used_are_the_users_to_mend(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str, match: str) -> None:
        with pytest.raises(UserError, match=match):
            launch.launch(name, job(base, tmp_path / "out"))

    monkeypatch.setattr(launch, "_gpus", lambda: 0)
    refused("ddp", "is for GPUs, and there is none")
    refused(str(tmp_path / "none.yaml"), r"none\.yaml.*does not take it")
    (tmp_path / "odd.yaml").write_text("distributed_type: MULTI_GPU\nnumber: 3\n")
    refused(str(tmp_path / "odd.yaml"), "number")
    (tmp_path / "far.yaml").write_text("distributed_type: MULTI_GPU\nnum_machines: 2\n")
    refused(str(tmp_path / "far.yaml"), "several machines")
    with pytest.raises(ValueError, match="is none of ddp"):
        SETTINGS.but(launch="dpp")


def test_deepspeed_that_is_not_installed_is_asked_for(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "deepspeed" else find(n, *a)
    )
    with pytest.raises(UserError, match="pip install deepspeed"):
        launch.launch("zero2", job(base, tmp_path / "out"))


def test_a_process_that_was_killed_is_told_of(tmp_path: Path) -> None:
    assert "memory" in launch._last_words(
        "W1121 run.py] something\n  exitcode  : -9 (pid: 71)\n"
        "  traceback : Signal 9 (SIGKILL) received by PID 71\n=========\n"
    )
    assert launch._last_words("a\nthe port is taken\n=====\n").endswith("the port is taken")
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as launcher:
        (tmp_path / "told.jsonl").touch()
        (tmp_path / "log").write_text("the port is taken\n")
        with pytest.raises(WorkFailed, match="the port is taken"):
            launch._follow(launcher, tmp_path, None)


def test_how_many_processes_train_is_free_to_change() -> None:
    assert stage_of("train.launch") == "free"


#: accelerate does FSDP on GPUs alone; the processes are made to believe in some.
TWO_GPUS = """
import os
if "LOCAL_RANK" in os.environ:
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType
    def two_gpus(*a, **k):
        open(os.path.join(os.path.dirname(__file__), "believed"), "w")
        return "gloo", DistributedType.MULTI_GPU
    PartialState._prepare_backend = two_gpus
    made = PartialState.__init__
    PartialState.__init__ = lambda self, cpu=False, **k: made(self, cpu=False, **k)
"""
