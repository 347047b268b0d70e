"""Values as tagged JSON: the only language between a judged program and the judge.

The program's process encodes, the judge decodes; nothing that comes back is unpickled,
evaluated or called. Types stay exact:

    None, bool, int, float, str, list    themselves (JSON; NaN and Infinity as Python writes them)
    int of more than 4,000 digits        {"int": hex}
    str with lone surrogates             {"str": hex of its UTF-8, surrogates passed}
    tuple, set, frozenset                {"tuple": [..]}, {"set": [..]}, {"frozenset": [..]}
    dict                                 {"dict": [[key, value], ..]} in its own order
    bytes, bytearray                     {"bytes": hex}, {"bytearray": hex}
    complex, Ellipsis                    {"complex": [real, imag]}, {"ellipsis": 0}
    a subclass of these, a NumPy scalar  {"sub": [type name, value as the plain type]}
    anything else                        {"other": type name}: not plain data, equal to nothing

``other`` names the type and nothing more: the object's own methods are never called.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from typing import Any

#: Nesting beyond this is not plain data (and keeps both JSON parsers off their own limits).
MAX_DEPTH = 150
_BIG = 13_000  # bits: about 3,900 decimal digits, below the limit of int <-> str conversion

_slow_compact = json.JSONEncoder(separators=(",", ":")).encode
#: The C encoder itself: the class makes a new one for each text.
_chunks = c_make_encoder and c_make_encoder(
    None, None, encode_basestring_ascii, None, ":", ",", False, False, True
)


def compact(tree: Any) -> str:
    """JSON text of a tree without cycles, one line of ASCII. Bound early: out of reach of a
    patched ``json.dumps``."""
    return _slow_compact(tree) if _chunks is None else "".join(_chunks(tree, 0))


_PLAIN = frozenset({type(None), bool, int, float})
_NUMPY_SCALARS = ("bool", "int", "uint", "float", "complex", "str_", "bytes_")


class CodecError(ValueError):
    """Text that no encoder of ours wrote."""


class Sub:
    """An instance of a subclass of a plain type, held as the plain type."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sub) and (self.name, self.value) == (other.name, other.value)

    def __hash__(self) -> int:
        return hash((self.name, self.value))

    def __repr__(self) -> str:
        return f"{self.name}({show(self.value)})"


class Other:
    """Something that is not plain data; equal to nothing but itself."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}: not plain data>"


def dumps(value: Any) -> str:
    """One line of ASCII. Never calls a method that the value's class could have overridden
    (NumPy's scalars apart), never raises for a strange value; MemoryError may pass."""
    return compact(encode(value))


def loads(text: str | bytes) -> Any:
    """The value ``dumps`` wrote, with Sub and Other in place of what is not plain.

    Raises CodecError for any other text.
    """
    return decode(parse(text))


def parse(text: str | bytes) -> Any:
    """JSON as data, with every way it can go wrong made a CodecError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not our JSON: {type(error).__name__}") from None


# --- encoding -----------------------------------------------------------------------------


def encode(value: Any, depth: int = 0) -> Any:
    """The JSON tree of a value (see the module's table)."""
    kind = type(value)
    if kind is list:
        return _items(value, depth)
    if kind is str:
        return _text(value)
    if kind in _PLAIN:
        return _hex(value) if kind is int and int.bit_length(value) > _BIG else value
    if depth > MAX_DEPTH:
        return {"other": f"{type_name(kind)} nested deeper than {MAX_DEPTH}"}
    special = _ENCODERS.get(kind)
    return special(value, depth) if special is not None else _unusual(value, kind, depth)


def _items(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return {"other": f"list nested deeper than {MAX_DEPTH}"}
    kinds = set(map(type, value))
    if kinds == {str} and "".join(value).isascii():
        return value
    if kinds <= _PLAIN and not (int in kinds and _any_big(value)):
        return value
    return [encode(item, depth + 1) for item in value]


def _any_big(value: Any) -> bool:
    return any(type(item) is int and int.bit_length(item) > _BIG for item in value)


def _hex(value: int) -> Any:
    return {"int": format(value, "x")}


def _text(value: str) -> Any:
    if value.isascii():
        return value
    raw = value.encode("utf-8", "surrogatepass")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return {"str": raw.hex()}
    return value


def _dict(value: Any, depth: int) -> Any:
    pairs = [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in list(dict.items(value))]
    return {"dict": pairs}


_ENCODERS: dict[type, Callable[[Any, int], Any]] = {
    tuple: lambda v, d: {"tuple": _items(list(tuple.__iter__(v)), d)},
    set: lambda v, d: {"set": _items(list(set.__iter__(v)), d)},
    frozenset: lambda v, d: {"frozenset": _items(list(frozenset.__iter__(v)), d)},
    dict: _dict,
    bytes: lambda v, d: {"bytes": bytes.hex(v)},
    bytearray: lambda v, d: {"bytearray": bytearray.hex(v)},
    complex: lambda v, d: {"complex": [v.real, v.imag]},
    type(...): lambda v, d: {"ellipsis": 0},
}

#: Subclasses are held as their plain base, read with the base's own methods.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, lambda v: int.__index__(v)),
    (float, lambda v: float.__float__(v)),
    (str, lambda v: str.__str__(v)),
    (list, lambda v: list(list.__iter__(v))),
    (tuple, lambda v: tuple(tuple.__iter__(v))),
    (dict, lambda v: dict(dict.items(v))),
    (set, lambda v: set(set.__iter__(v))),
    (frozenset, lambda v: frozenset(frozenset.__iter__(v))),
    (bytes, lambda v: bytes.__getitem__(v, slice(None))),
)
_PLAIN_BASES = frozenset({base for base, _ in _BASES} | {bool, complex})


def _unusual(value: Any, kind: type, depth: int) -> Any:
    name = type_name(kind)
    if name.startswith("numpy."):
        return _numpy(value, name, depth)
    ancestors = type.__dict__["__mro__"].__get__(kind)
    for base, plain in _BASES:
        if base in ancestors:
            return _sub(name, plain(value), base, depth)
    return {"other": name}


def _numpy(value: Any, name: str, depth: int) -> Any:
    if not name.removeprefix("numpy.").startswith(_NUMPY_SCALARS):
        return {"other": name}
    plain = value.item()
    return _sub(name, plain, type(plain), depth)


def _sub(name: str, plain: Any, base: type, depth: int) -> Any:
    if type(plain) is not base or base not in _PLAIN_BASES:
        return {"other": name}
    return {"sub": [name, encode(plain, depth + 1)]}


def type_name(kind: type) -> str:
    """``module.Name`` of a type without asking the type itself, at most 80 characters."""
    try:
        name = type.__dict__["__qualname__"].__get__(kind)
        module = type.__dict__["__module__"].__get__(kind)
        text = name if module in ("builtins", "solution") else f"{module}.{name}"
        return ascii(text)[1:-1][:80]
    except Exception:
        return "object"


# --- decoding -----------------------------------------------------------------------------


def decode(tree: Any) -> Any:
    """The value of a JSON tree. Raises CodecError where the tree is not one of ours."""
    try:
        return _decode(tree)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, CodecError):
            raise
        raise CodecError(f"not our encoding: {type(error).__name__}") from None


def _decode(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_decode(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) != 1:
        raise CodecError("a value has one tag")
    (tag, body), *_ = tree.items()
    if tag not in _DECODERS:
        raise CodecError("unknown tag")
    return _DECODERS[tag](body)


def _sub_of(body: Any) -> Sub:
    name, value = body
    return Sub(_name(name), _decode(value))


def _name(body: Any) -> str:
    if not isinstance(body, str):
        raise CodecError("a type name is text")
    return body[:120]


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda b: int(b, 16),
    "str": lambda b: bytes.fromhex(b).decode("utf-8", "surrogatepass"),
    "tuple": lambda b: tuple(map(_decode, b)),
    "set": lambda b: set(map(_decode, b)),
    "frozenset": lambda b: frozenset(map(_decode, b)),
    "dict": lambda b: {_decode(k): _decode(v) for k, v in b},
    "bytes": lambda b: bytes.fromhex(b),
    "bytearray": lambda b: bytearray.fromhex(b),
    "complex": lambda b: complex(*b),
    "ellipsis": lambda b: ...,
    "sub": _sub_of,
    "other": lambda b: Other(_name(b)),
}


def unwrap(value: Any) -> Any:
    """The value with every Sub replaced by its plain value (Counter -> dict, np.int64 -> int).

    Raises CodecError where it is nested deeper than any value of ours."""
    try:
        return _unwrap(value)
    except RecursionError:
        raise CodecError("nested too deep") from None


def _unwrap(value: Any) -> Any:
    if isinstance(value, Sub):
        return _unwrap(value.value)
    if isinstance(value, list):
        return [_unwrap(item) for item in value]
    if isinstance(value, (tuple, set, frozenset)):
        return type(value)(map(_unwrap, value))
    if isinstance(value, dict):
        return {_unwrap(k): _unwrap(v) for k, v in value.items()}
    return value


def show(value: Any) -> str:
    """``repr`` of a decoded value; ints too long for it in hexadecimal."""
    try:
        return repr(value)
    except ValueError:
        return _show_big(value)
    except RecursionError:
        return f"<{type(value).__name__} nested too deep to write>"


def _show_big(value: Any) -> str:
    if isinstance(value, int):
        return hex(value)
    return f"<{type(value).__name__} holding an int too long to write>"


def canonical(text: str) -> str:
    """The encoding with sets and dicts in a fixed order and -0.0 as 0.0: two values are equal,
    types and all, where their canonical texts are equal (NaN equals NaN).

    Raises CodecError for text that no encoder of ours wrote."""
    if "{" not in text and "-0.0" not in text:
        return text
    try:
        return _dump_sorted(parse(text))
    except RecursionError:
        raise CodecError("nested too deep") from None


def _dump_sorted(tree: Any) -> str:
    if isinstance(tree, list):
        return f"[{','.join(map(_dump_sorted, tree))}]"
    if not isinstance(tree, dict):
        zero = isinstance(tree, float) and tree == 0
        return "0.0" if zero else json.dumps(tree)
    (tag, body), *_ = tree.items() or (("", None),)
    if tag in ("set", "frozenset", "dict") and isinstance(body, list):
        inner = f"[{','.join(sorted(map(_dump_sorted, body)))}]"
    else:
        inner = _dump_sorted(body)
    return f'{{"{tag}":{inner}}}'
