"""Which programs may share a process with others: those that cannot reach one another.

Judged on the compiled code, in the server. Tame code has no classes, sets no attributes, imports
a few modules that keep no state, and names nothing that leads to other code: no name that begins
with an underscore, no frames, no ``eval``, no ``getattr``. So what one program does is gone with
its own names; what it could still spend is time and memory, and that makes it fail, not pass.
"""

from __future__ import annotations

import opcode
from types import CodeType

_LISTED_MODULES = """
    bisect cmath collections collections.abc copy datetime fractions functools heapq itertools
    math operator random re string time typing
"""
_LISTED_NAMES = """
    abc ag_code ag_frame atexit attrgetter breakpoint builtins compile copyright copyreg
    cr_code cr_frame credits ctypes delattr dir dispatch_table eval exec exit f_back f_builtins
    f_code f_globals f_locals ForwardRef gc get_annotations get_type_hints getattr gi_code
    gi_frame gi_yieldfrom globals help importlib input inspect io license locals memoryview
    methodcaller object open os posix quit register setattr setprofile settrace signal subprocess
    super sys tb_frame tb_next threading types update_wrapper vars weakref with_traceback
    wraps
"""
_MODULES, _NAMES = frozenset(_LISTED_MODULES.split()), frozenset(_LISTED_NAMES.split())
_FORBIDDEN = bytes(
    opcode.opmap[name]
    for name in ("STORE_ATTR", "DELETE_ATTR", "LOAD_BUILD_CLASS", "IMPORT_STAR")
    if name in opcode.opmap
)
_IMPORT, _EXTENDED = opcode.opmap["IMPORT_NAME"], opcode.opmap["EXTENDED_ARG"]


def is_tame(code: CodeType) -> bool:
    """Whether the code, and the code within it, is tame."""
    if not all(map(_is_plain, code.co_names)):
        return False
    steps = code.co_code
    operations = steps[::2]
    if any(step in operations for step in _FORBIDDEN):
        return False
    if _IMPORT in operations and not _imports_are_tame(code, steps, operations):
        return False
    return all(is_tame(inner) for inner in code.co_consts if isinstance(inner, CodeType))


def _is_plain(name: str) -> bool:
    if name in _NAMES:
        return False
    return not name.startswith("_") or name == "_"


def _imports_are_tame(code: CodeType, steps: bytes, operations: bytes) -> bool:
    """All modules are on the list. Cache entries that look like an import are taken for one."""
    for place, operation in enumerate(operations):
        if operation == _IMPORT:
            extended = place and operations[place - 1] == _EXTENDED
            number = steps[2 * place + 1]
            if extended or number >= len(code.co_names) or code.co_names[number] not in _MODULES:
                return False
    return True
