"""YAML, read strictly: a mistake is named where it was made, with the remedy.

PyYAML's defaults are traps for a plan: the last of two equal keys wins, `NO` is False, `1e-5` is
text, `1:30` is ninety. This loader knows the core schema of YAML 1.2 and nothing else.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from primia.errors import ConfigError

MAX_BYTES = 1 << 20
_MOST_SAID = 1000  # characters of what is wrong with one value, which may quote it
T = TypeVar("T", bound="Strict")

_TAGS = {f"tag:yaml.org,2002:{t}" for t in ("map", "seq", "str", "int", "float", "bool", "null")}


class Strict(BaseModel):
    """Base of all configuration: frozen, no unknown keys, no silent conversions, no inf or nan."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


class _Loader(yaml.SafeLoader):
    """Safe loader with YAML 1.2 scalars; repeated keys and aliases are errors."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", mark)
        node = super().compose_node(parent, index)
        if node is not None and node.tag not in _TAGS:
            raise yaml.constructor.ConstructorError(
                None, None, f"tag {node.tag} is not allowed; remove it", node.start_mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain word", key_node.start_mark
                )
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice; keep one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}  # none of YAML 1.1's
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def parse_yaml_file(path: Path) -> Any:
    """The content of one YAML document. Raises ConfigError with file and line."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise ConfigError(f"{path}: cannot be read ({err.strerror}); check the path") from err
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: more than 1 MiB; this is not a configuration file")
    try:
        loader = _Loader(raw.decode("utf-8"))
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: not UTF-8 text; save it as UTF-8") from err
    except yaml.MarkedYAMLError as err:
        line = err.problem_mark.line + 1 if err.problem_mark else "?"
        raise ConfigError(f"{path}, line {line}: {err.problem}") from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise ConfigError(f"{path}: not readable as YAML ({err})") from err


def validate(cls: type[T], raw: Any, where: str) -> T:
    """Make `cls` from parsed YAML. Raises ConfigError: one line per mistake."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected keys and values, found {type(raw).__name__}")
    try:
        # As JSON, because strict mode then takes a list for a tuple and text for a path, but never
        # text for a number.
        return cls.model_validate_json(json.dumps(raw))
    except ValidationError as err:
        lines = [_explain(cls, item, where) for item in err.errors() if not _other_variant(item)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from err


def _explain(cls: type[BaseModel], item: ErrorDetails, where: str) -> str:
    path = [str(p) for p in item["loc"] if not _is_union_tag(str(p))]
    key = ".".join(path) or "the file"
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _keys_at(cls, path[:-1]), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; remove it"
        return f"{where}: unknown key {key!r}{hint}"
    if item["type"] == "missing":
        return f"{where}: missing key {key!r}; add it"
    text = _cut(item["msg"].removeprefix("Value error, "), _MOST_SAID)
    value = f"{key} = {_short(item['input'])}: " if path else ""  # not the whole file again
    return f"{where}: {value}{text[:1].lower()}{text[1:]}"


def _is_union_tag(part: str) -> bool:
    """pydantic puts the name of the tried variant into the path of a union's errors."""
    return part.startswith(("literal[", "function-")) or part[:1].isupper()


def _other_variant(item: ErrorDetails) -> bool:
    """A section was given: that it is not the one word instead is no news (`privacy: none`)."""
    return item["type"] == "literal_error" and isinstance(item["input"], dict)


def _keys_at(cls: type[BaseModel], path: list[str]) -> list[str]:
    current: type[BaseModel] = cls
    for part in path:
        field = current.model_fields.get(part)
        if field is None:
            return []
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not models:
            return []
        current = models[0]
    return list(current.model_fields)


def _short(value: Any) -> str:
    return _cut(repr(value), 60)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
