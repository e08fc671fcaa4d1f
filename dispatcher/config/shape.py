"""
Every wrong key, type and number of a tree of plain values, each with its path.

msgspec stops at the first problem; who repairs a file wants them all.
"""

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time
from typing import Any, NamedTuple

from msgspec import inspect

Keys = tuple[str | int, ...]
"""Where a value stands: the keys of the tables and the indices of the arrays around it."""

INTEGER_MAX = 10**15
"""The largest integer: as seconds or bytes it fits wherever it is multiplied or stored."""
NUMBER_MAX = 1e9
"""The largest number that need not be whole: as seconds, 31 years."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN_MAX = 60


class Fault(NamedTuple):
    """One problem of shape."""

    keys: Keys
    message: str
    required: bool = False
    """Without this value the table around it means nothing."""

    @property
    def path(self) -> str:
        """Return the place as TOML would spell it."""
        return spelled(self.keys)


def faults(raw: object, kind: type) -> Iterator[Fault]:
    """Yield every problem of *raw* as a *kind*; without any, msgspec can convert it."""
    yield from _of(raw, inspect.type_info(kind), (), required=False)


def spelled(keys: Keys) -> str:
    """Return a path in TOML's own spelling, such as `accounts.a.functions."s$f".type`."""
    path = ""
    for key in keys:
        if isinstance(key, int):
            path += f"[{key}]"
        else:
            name = key if _PLAIN_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
            path += f".{name}" if path else name
    return path


def expected(kind: inspect.Type) -> str:
    """Say in words what a value may be, such as `an integer of at least 1`."""
    match kind:
        case inspect.UnionType(types):
            words = " or ".join(dict.fromkeys(expected(one) for one in types if not _is_none(one)))
        case inspect.EnumType() | inspect.LiteralType():
            words = one_of(_choices(kind))
        case inspect.IntType() | inspect.FloatType():
            words = _NAMES[type(kind)] + _bounds(kind)
        case inspect.VarTupleType(item):
            words = f"an array, each item {expected(item)}"
        case _:
            words = _NAMES[type(kind)]
    return words


def one_of(choices: Iterable[str]) -> str:
    """List the *choices* in words."""
    *most, last = [json.dumps(choice) for choice in choices]
    return f"{', '.join(most)} or {last}" if most else last


# -- One case for each kind of value --------------------------------------------------------------


def _of(raw: object, kind: inspect.Type, keys: Keys, *, required: bool) -> Iterator[Fault]:
    match kind:
        case inspect.UnionType(types):
            yield from _of_union(raw, types, keys, required=required)
        case inspect.StructType() if isinstance(raw, Mapping):
            yield from _of_struct(raw, kind, keys)
        case inspect.DictType() if isinstance(raw, Mapping):
            for key, value in raw.items():
                if isinstance(key, str):
                    yield from _of(value, kind.value_type, (*keys, key), required=False)
                else:  # never from a file
                    yield Fault(keys, f"expected names as strings, got {_word(key)}")
        case inspect.VarTupleType(item) if isinstance(raw, list | tuple):
            for index, value in enumerate(raw):
                yield from _of(value, item, (*keys, index), required=False)
        case _:
            message = _of_leaf(raw, kind)
            if message is not None:
                yield Fault(keys, message, required)


def _of_leaf(raw: object, kind: inspect.Type) -> str | None:
    match kind, raw:
        case inspect.EnumType() | inspect.LiteralType(), str():
            return _of_choice(raw, _choices(kind))
        case (_, bool()):
            fits = isinstance(kind, inspect.BoolType)
        case inspect.IntType(), int():
            return _of_number(raw, kind, INTEGER_MAX)
        case inspect.FloatType(), int() | float():
            return _of_number(raw, kind, NUMBER_MAX)
        case _:
            fits = isinstance(kind, inspect.StrType) and isinstance(raw, str)
    return None if fits else f"expected {expected(kind)}, got {_word(raw)}{_hint(raw, kind)}"


def _of_struct(raw: Mapping[str, Any], kind: inspect.StructType, keys: Keys) -> Iterator[Fault]:
    fields = {field.encode_name: field for field in kind.fields}
    for key, value in raw.items():
        if key in fields:
            field = fields[key]
            yield from _of(value, field.type, (*keys, key), required=field.required)
        elif key != kind.tag_field:
            yield Fault((*keys, key), f"unknown key{_did_you_mean(key, fields)}")
    for name, field in fields.items():
        if field.required and name not in raw:
            message = f"missing; expected {expected(field.type)}"
            yield Fault((*keys, name), message, required=True)


def _of_union(
    raw: object, types: tuple[inspect.Type, ...], keys: Keys, *, required: bool
) -> Iterator[Fault]:
    kinds = [one for one in types if not _is_none(one)]
    if raw is None and len(kinds) < len(types):
        return
    if len(kinds) == 1:
        yield from _of(raw, kinds[0], keys, required=required)
        return
    variants = {str(one.tag): one for one in kinds if isinstance(one, inspect.StructType)}
    assert len(variants) == len(kinds), "only tables have variants"
    if not isinstance(raw, Mapping):
        yield Fault(keys, f"expected a table, got {_word(raw)}", required)
        return
    tag_field = next(iter(variants.values())).tag_field
    assert tag_field is not None
    tag = raw.get(tag_field)
    if isinstance(tag, str):
        message = _of_choice(tag, list(variants))
    else:
        message = f"expected {one_of(variants)}, got {_word(tag)}"
    if message is None:
        yield from _of_struct(raw, variants[str(tag)], keys)
    else:
        yield Fault((*keys, tag_field), message, required=True)


def _of_choice(raw: str, choices: list[str]) -> str | None:
    if raw in choices:
        return None
    return f"expected {one_of(choices)}, got {_shown(raw)}{_did_you_mean(raw, choices)}"


def _of_number(raw: Any, kind: inspect.IntType | inspect.FloatType, most: float) -> str | None:
    assert kind.le is kind.lt is None, "the largest number is the same everywhere"
    # Written so that NaN is refused as well.
    if not (
        -math.inf < raw < math.inf
        and (kind.ge is None or raw >= kind.ge)
        and (kind.gt is None or raw > kind.gt)
    ):
        return f"expected {expected(kind)}, got {_shown(raw)}"
    if abs(raw) > most:
        return f"expected {expected(kind)} and at most {most:.0f}, got {_shown(raw)}"
    return None


# -- Words ----------------------------------------------------------------------------------------

_NAMES: dict[type[inspect.Type], str] = {
    inspect.StrType: "a string",
    inspect.BoolType: "true or false",
    inspect.IntType: "an integer",
    inspect.FloatType: "a number",
    inspect.StructType: "a table",
    inspect.DictType: "a table",
}
_WORDS: dict[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    tuple: "an array",
    dict: "a table",
    datetime: "a date",
    date: "a date",
    time: "a time",
    type(None): "nothing",
}


def _word(raw: object) -> str:
    """Name what *raw* is, not its value: it may be a secret in the wrong place."""
    return _WORDS.get(type(raw), type(raw).__name__)


def _shown(raw: object) -> str:
    """Return the value itself, where it is a number or one of a few words."""
    if isinstance(raw, int) and abs(raw) > 10**_SHOWN_MAX:
        return "one of too many digits"  # str() itself refuses to write out the longest
    text = json.dumps(raw, ensure_ascii=False) if isinstance(raw, str) else str(raw)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def _hint(raw: object, kind: inspect.Type) -> str:
    if isinstance(kind, inspect.StrType) and isinstance(raw, int | float | date | time):
        return "; put it in quotes"
    if isinstance(raw, str) and re.fullmatch(r"[-+]?[0-9._]+|true|false", raw, re.ASCII):
        return "; leave out the quotes"
    return ""


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:_SHOWN_MAX], list(known), n=1)
    return f"; did you mean {json.dumps(close[0])}?" if close else ""


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None:
        return f" of at least {kind.ge:g}"
    return "" if kind.gt is None else f" above {kind.gt:g}"


def _choices(kind: inspect.EnumType | inspect.LiteralType) -> list[str]:
    if isinstance(kind, inspect.EnumType):
        return [str(member.value) for member in kind.cls]
    return [str(value) for value in kind.values]


def _is_none(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.NoneType)
