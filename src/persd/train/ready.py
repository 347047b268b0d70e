"""What a training would fail for, found before anything is paid for it."""

from __future__ import annotations

from importlib.util import find_spec

from persd.config import StudentTable, TrainTable
from persd.errors import UserError
from persd.examples import parts_of
from persd.models import source_of
from persd.train.mix import is_file, read_rows
from persd.train.watching import need_trackers

#: Tokens of the shortest row worth a training: what does not fit with it fits with none.
_SHORT = 64


def refuse_unready(settings: TrainTable) -> None:
    """Raises UserError where a package, a file or a selection is missing that the settings name.
    Loads nothing heavy."""
    need_trackers(settings.report_to)
    need_bitsandbytes(settings)
    for table in settings.mix:
        if is_file(table.source):
            read_rows(table.source)
        else:
            parts_of(table.source)
    if settings.launch:
        from persd.train.launch import check

        check(settings.launch)


def refuse_unfit(student: StudentTable, settings: TrainTable) -> None:
    """Raises UserError where even short rows would not fit this machine, or the base or what
    trains is missing. Reads its configuration, no weights."""
    from persd.models.checkpoint import need_extra
    from persd.train.memory import refuse_too_big

    need_extra("training", "trl", "datasets")
    if settings.launch:
        return  # its processes may share the weights out
    refuse_too_big(source_of(student), settings, [min(_SHORT, settings.max_length)])


def need_bitsandbytes(settings: TrainTable) -> None:
    """Raises UserError where settings need the package and it is not installed."""
    wanted = {
        ("train.method", "qlora", "lora"): settings.method == "qlora",
        ("train.optimizer", "adamw_8bit", "adafactor"): settings.optimizer == "adamw_8bit",
    }
    for (key, value, instead), is_wanted in wanted.items():
        if is_wanted and find_spec("bitsandbytes") is None:
            raise UserError(
                f'{key} = "{value}" needs bitsandbytes',
                hint=f"Install it: pip install 'persd[qlora]'; or use {key} = \"{instead}\".",
            )
