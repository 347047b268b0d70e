"""Which programs may share a process with others: those that cannot reach one another.

Judged on the compiled code, in the server. Tame code has no classes, matches none, sets no
attributes, imports a few modules that keep no state, and names nothing that leads to other code:
no name that begins with an underscore, no frames, no ``eval``, no ``getattr``, nothing that makes
a class, and of the modules only what they export. So what one program does is gone with its own
names; what it could still spend is time and memory, and that makes it fail, not pass.
"""

from __future__ import annotations

import opcode
import types
from functools import cache
from importlib import import_module
from types import CodeType

_LISTED_MODULES = """
    bisect collections collections.abc copy datetime functools heapq itertools math operator
    random re string typing
"""
#: Names that lead on: to other code, to a class made without ``class``, to attributes by text.
_LISTED_NAMES = """
    abc ag_code ag_frame atexit attrgetter breakpoint builtins compile copyright copyreg
    cr_code cr_frame credits ctypes delattr dir dispatch_table eval evaluate
    evaluate_forward_ref exec exit f_back f_builtins f_code f_globals f_locals format
    format_map ForwardRef
    Formatter gc get_annotations get_field get_origin get_type_hints get_value getattr gi_code
    gi_frame gi_yieldfrom globals help importlib input inspect io license locals memoryview
    methodcaller mro namedtuple NamedTuple NewType no_type_check object open os posix quit
    RegexFlag register runtime_checkable setattr setprofile settrace signal singledispatch
    singledispatchmethod subprocess super sys tb_frame tb_next threading total_ordering type Type
    TypedDict types update_wrapper vars vformat weakref with_traceback wraps
"""
#: Of modules that hold more than functions of their arguments, what may be named.
_EXPORTS = {
    "copy": "copy deepcopy",
    "functools": "cache cmp_to_key lru_cache partial reduce",
    "re": "IGNORECASE MULTILINE escape findall finditer fullmatch match search split sub",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits hexdigits punctuation",
    "typing": """Any Callable DefaultDict Deque Dict FrozenSet Generator Iterable Iterator List
        Mapping Optional Sequence Set Tuple Union""",
}
_MODULES = frozenset(_LISTED_MODULES.split())
_FORBIDDEN = bytes(
    opcode.opmap[name]
    for name in ("STORE_ATTR", "DELETE_ATTR", "LOAD_BUILD_CLASS", "IMPORT_STAR", "MATCH_CLASS")
    if name in opcode.opmap
)
_IMPORT, _EXTENDED = opcode.opmap["IMPORT_NAME"], opcode.opmap["EXTENDED_ARG"]


@cache
def _names() -> frozenset[str]:
    """The names that are not plain: those listed, and what listed modules hold but do not export
    (their own imports, above all)."""
    held: set[str] = set()
    exported: set[str] = set()
    for module in map(import_module, _MODULES):
        public = {name for name in vars(module) if not name.startswith("_")}
        modules = {n for n in public if isinstance(getattr(module, n), types.ModuleType)}
        known = _EXPORTS.get(module.__name__, "").split()
        exported |= set(known or getattr(module, "__all__", None) or public - modules)
        held |= public
    return frozenset(_LISTED_NAMES.split()) | (held - exported - _MODULES)


def is_tame(code: CodeType) -> bool:
    """Whether the code, and the code within it, is tame."""
    waiting = [code]
    while waiting:
        one = waiting.pop()
        if not _keeps_to_itself(one):
            return False
        waiting += [inner for inner in one.co_consts if isinstance(inner, CodeType)]
    return True


def _keeps_to_itself(code: CodeType) -> bool:
    if not all(map(_is_plain, code.co_names)):
        return False
    steps = code.co_code
    operations = steps[::2]
    if any(step in operations for step in _FORBIDDEN):
        return False
    return _IMPORT not in operations or _imports_are_tame(code, steps, operations)


def _is_plain(name: str) -> bool:
    if name in _names():
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
