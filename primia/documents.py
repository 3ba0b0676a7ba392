"""JSON documents that somebody else wrote, read strictly into plain frozen data.

    parse(text, most) -> Any
    typed(wanted, value) -> wanted

Both raise ValueError with one line that names the place, for anything odd.
"""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

LARGEST = 1e15
"""Of any number: no count, time or figure of a study is larger, and sums of such stay finite."""


def parse(text: str, most: int) -> Any:
    """What `json.loads` makes of at most `most` characters.

    Refused: a key twice, numbers that are not finite or above LARGEST, halves of characters.
    """
    if len(text) > most:
        raise ValueError(f"it is longer than {most} bytes")
    try:
        found = json.loads(
            text,
            object_pairs_hook=_once_each,
            parse_int=_whole,
            parse_float=_number,
            parse_constant=_number,
        )
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err
    if "\\u" in text:
        _whole_characters(found)
    return found


def typed(wanted: Any, value: Any, where: str = "") -> Any:
    """`value` as the type `wanted`: exactly, nothing is converted but int to float, list to tuple.

    wanted: a dataclass, tuple, dict or plain type, or one of these or None; fields of a dataclass
    that have a default may be missing.
    """
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin is types.UnionType:
        if value is None and type(None) in inner:
            return None
        return typed(next(t for t in inner if t is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is not a list")
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(value):
            raise ValueError(f"{where} has {len(value)} entries, not {len(kinds)}")
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(typed(k, v, f"{where}[{i}]") for i, (k, v) in pairs)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is not an object")
        return {k: typed(inner[1], v, f"{where}.{k}") for k, v in value.items()}
    if is_dataclass(wanted):
        return _fields(wanted, value, where)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        raise ValueError(f"{where} is not {wanted.__name__}")
    return value


def _fields(wanted: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'the file'} is not an object")
    kinds = typing.get_type_hints(wanted)
    names = {f.name for f in fields(wanted)}
    needed = {
        f.name for f in fields(wanted) if f.default is MISSING and f.default_factory is MISSING
    }
    if odd := (needed - value.keys()) | (value.keys() - names):
        few = ", ".join(name[:40] for name in sorted(odd)[:5])
        raise ValueError(f"{where or 'the file'}: missing or unknown: {few}")
    dot = where + "." if where else ""
    return wanted(**{n: typed(kinds[n], v, dot + n) for n, v in sorted(value.items())})


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _whole(text: str) -> int:
    if len(text) > 17:
        raise ValueError("a number is too large")
    return int(text)


def _number(text: str) -> float:
    if not abs(value := float(text)) <= LARGEST:  # NaN, too
        raise ValueError(f"{text[:20]} is no figure")
    return value


def _whole_characters(found: Any) -> None:
    """Half a character, as "\\ud800", can be written into no file."""
    json.dumps(found, ensure_ascii=False).encode("utf-8")
