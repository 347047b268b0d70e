"""Start the processes that train one student, and follow them as if it were this one.

``train.launch`` names a configuration of ``accelerate launch``: one that is shipped
(``configs/accelerate``) or a file. The training is put down as a job in a folder of its own, a
launcher starts a process a GPU, and each runs ``work``. What they tell (steps, the metrics, one
error) comes back as JSON lines in a file of that folder. No process outlives the one that asked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from persd.config import LAUNCHES, TrainTable
from persd.errors import UserError, WorkFailed
from persd.records import Example, Step, from_plain, to_json
from persd.session import cores
from persd.tokens import Api
from persd.train import ranks
from persd.train.folder import clear_away
from persd.train.watching import OnStep

#: Seconds between two looks at what the processes have told.
_LOOK = 0.1
#: Seconds the launcher has to end its processes before it is killed.
_PATIENCE = 35.0
_JOB, _TOLD, _LOG = "job.json", "told.jsonl", "log"
_MODULE = "persd.train.launch"


@dataclass(frozen=True, slots=True)
class Job:
    """The arguments of ``persd.train.train``, as they are handed to other processes."""

    base: str
    examples: Sequence[Example]
    out: Path
    settings: TrainTable
    api: Api
    revision: str | None
    trust_remote_code: bool

    def to_json(self) -> str:
        plain = {name: getattr(self, name) for name in self.__slots__}
        plain["examples"] = [asdict(e) for e in self.examples]
        plain["settings"] = self.settings.model_dump(mode="json")
        return to_json(plain | {"out": str(self.out)})

    @classmethod
    def from_json(cls, text: str) -> Job:
        plain = json.loads(text)
        plain["examples"] = [from_plain(Example, e) for e in plain["examples"]]
        plain["settings"] = TrainTable.model_validate(plain["settings"])
        return cls(**plain | {"out": Path(plain["out"])})


# -- the process that asks ----------------------------------------------------------------------


def launch(name: str, job: Job, on_step: OnStep | None = None) -> dict[str, float]:
    """Train as ``persd.train.train`` does, in the processes that the configuration describes.

    Raises what it raises, UserError for a configuration that cannot be used, and WorkFailed
    where a process was killed.
    """
    with (
        resources.as_file(_config(name)) as config,
        tempfile.TemporaryDirectory(prefix="persd-train-") as scratch,
    ):
        _check(config, name)
        folder = Path(scratch)
        (folder / _JOB).write_text(job.to_json(), encoding="utf-8")
        (folder / _TOLD).touch()
        with (folder / _LOG).open("wb") as log:
            # a session of its own: a Ctrl-C is ours alone to answer
            launcher = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(config.resolve()), str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, ranks.PARENT: str(os.getpid())},
                start_new_session=True,
            )
        try:
            return _follow(launcher, folder, on_step)
        finally:
            _end(launcher)
            clear_away(job.out)


def check(name: str) -> None:
    """Raises UserError for a configuration that cannot be used here."""
    with resources.as_file(_config(name)) as config:
        _check(config, name)


def _config(name: str) -> Any:
    """The file of a configuration's name."""
    if name in LAUNCHES:
        return resources.files("persd") / "configs" / "accelerate" / f"{name}.yaml"
    return Path(name)


def _check(config: Path, name: str) -> None:
    """Raises UserError for a file that accelerate does not take, or what it needs is not here."""
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        told = load_config_from_file(str(config))
    except Exception as e:  # of the file's parser, of the file system, of accelerate
        reason = " ".join(str(e).split())[:200]
        raise UserError(
            f"accelerate does not take it: {reason}",
            where=name,
            hint=f"Make one with: accelerate config; or use one of {', '.join(LAUNCHES)}.",
        ) from None
    if getattr(told, "num_machines", 1) > 1 or getattr(told, "mpirun_config", None):
        raise UserError(
            "the configuration is for several machines",
            where=name,
            hint="Start persd train under accelerate launch on each of them.",
        )
    kind = str(getattr(told.distributed_type, "value", told.distributed_type))
    _check_needs(name, kind, on_cpu=bool(told.use_cpu))


def _check_needs(name: str, kind: str, *, on_cpu: bool) -> None:
    from importlib.util import find_spec

    if kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise UserError(
            f'train.launch = "{name}" needs deepspeed',
            hint='Install it: pip install deepspeed; or use train.launch = "fsdp".',
        )
    if not on_cpu and not _gpus():
        raise UserError(
            f'train.launch = "{name}" is for GPUs, and there is none',
            hint='Leave train.launch out; "cpu2" tries two processes without a GPU.',
        )


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _follow(
    launcher: subprocess.Popen[bytes], folder: Path, on_step: OnStep | None
) -> dict[str, float]:
    """Pass the steps on until the processes have ended; gives what the main one told at last."""
    metrics: dict[str, float] | None = None
    for kind, told in _told(launcher, folder / _TOLD):
        if kind == "step" and on_step:
            on_step(from_plain(Step, told))
        elif kind == "metrics":
            metrics = {k: float(v) for k, v in told.items()}
        elif kind == "error":
            raise _error(told)
    if metrics is None or launcher.returncode:
        raise WorkFailed(_last_words((folder / _LOG).read_text("utf-8", "replace")))
    return metrics


def _told(launcher: subprocess.Popen[bytes], path: Path) -> Iterator[tuple[str, Any]]:
    """What the processes tell, (kind, content), until the launcher has ended."""
    line = ""
    with path.open(encoding="utf-8") as lines:
        while True:
            ended = launcher.poll() is not None
            while part := lines.readline():
                line += part
                if line.endswith("\n"):
                    yield from json.loads(line).items()
                    line = ""
            if ended:
                return
            time.sleep(_LOOK)


def _error(told: Mapping[str, str]) -> Exception:
    """The error of a process, as if it had been raised here."""
    match told["kind"]:
        case "user":
            return UserError(told["what"], where=told["where"], hint=told["hint"])
        case "failed":
            return WorkFailed(told["what"])
    return RuntimeError(f"in a process of the training:\n{told['what']}")


def _last_words(log: str) -> str:
    """Why processes ended that told nothing: the signal that killed one, or the log's end."""
    killed = re.search(r"Signal \d+ \((SIG\w+)\)", log)
    if killed and killed[1] == "SIGKILL":
        return "a process of the training was killed: the memory may not have sufficed"
    lines = [line.strip() for line in log.splitlines() if line.strip(" =-")]
    reason = killed[1] if killed else (lines or ["no word"])[-1][:200]
    return f"the processes of the training ended: {reason}"


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """No process is left: those of a launcher that must be killed see that and end."""
    if launcher.poll() is None:
        launcher.terminate()
        try:
            launcher.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            launcher.kill()
            launcher.wait()


# -- the processes that are started -------------------------------------------------------------


def work(folder: Path) -> int:
    """One process of a training: its share of the job in the folder. Gives its exit code."""
    job = Job.from_json((folder / _JOB).read_text(encoding="utf-8"))

    def tell(kind: str, content: Any) -> None:
        with (folder / _TOLD).open("a", encoding="utf-8") as told:
            told.write(to_json({kind: content}) + "\n")

    try:
        with ranks.one_voice():
            metrics = _train(job, lambda step: tell("step", asdict(step)))
    except UserError as e:
        tell("error", {"kind": "user", "what": e.what, "where": e.where, "hint": e.hint})
        return 2
    except WorkFailed as e:
        tell("error", {"kind": "failed", "what": str(e)})
        return 1
    except Exception:
        tell("error", {"kind": "defect", "what": traceback.format_exc()})
        return 1
    if ranks.is_main():
        tell("metrics", metrics)
    return 0


def _train(job: Job, on_step: OnStep) -> dict[str, float]:
    from persd.train import train

    return train(
        job.base,
        job.examples,
        job.out,
        job.settings,
        api=job.api,
        revision=job.revision,
        trust_remote_code=job.trust_remote_code,
        on_step=on_step,
    )


def start(config: Path, folder: Path) -> None:
    """The launcher: accelerate's, a process a GPU unless the configuration says how many."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command, launch_command_parser

    told = load_config_from_file(str(config))
    count = told.num_processes if told.num_processes > 0 else _gpus()
    given = ["--config_file", str(config), "--num_processes", str(count)]
    given += ["--module", _MODULE, str(folder)]
    # left alone, one thread each: an optimizer on the CPU wants its share of the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    os.environ[ranks.PARENT] = str(os.getpid())
    launch_command(launch_command_parser().parse_args(given))


def main(arguments: Sequence[str]) -> int:
    """CONFIG FOLDER: start the processes; FOLDER: be one of them."""
    if len(arguments) == 2:
        ranks.end_with_parent()
        start(Path(arguments[0]), Path(arguments[1]))
        return 0
    return work(Path(arguments[0]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
