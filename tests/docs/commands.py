"""Finds the command lines in Markdown, and holds them against the real command line tools."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

import coordinator.cli
import primia.cli.main
import worker.cli

Tool = TyperCommand | TyperGroup
TOOLS: dict[str, Tool] = {
    "primia": typer.main.get_command(primia.cli.main.app),
    "primia-coordinator": typer.main.get_command(coordinator.cli.app),
    "primia-worker": typer.main.get_command(worker.cli.app),
}
_TOOL = re.compile(
    r"(?:.*[\s/(]|^)(primia(?:-coordinator|-worker)?)\s+(?=[a-z]|--(?:help|version))(.*)"
)
_LABEL = re.compile(r".* v\d+$")  # of what is signed or hashed, such as `primia audit log v1`
_ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "\\"}


@dataclass(frozen=True)
class Line:
    """A command as a document shows it. whole: in a block to copy, where nothing is left out."""

    number: int
    text: str
    whole: bool


def command_lines(markdown: str) -> Iterator[Line]:
    """Of fenced blocks and of code within a line."""
    fenced, held = False, ""
    for number, line in enumerate(markdown.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced:
            held += line.removesuffix("\\")
            if not line.endswith("\\"):
                yield from _found(number, held, whole=True)
                held = ""
    prose = re.sub(
        r"^\s*```.*?^\s*```", lambda m: "\n" * m[0].count("\n"), markdown, flags=re.S | re.M
    )
    for match in re.finditer(r"`([^`]+)`", prose):
        number = prose.count("\n", 0, match.start()) + 1
        yield from _found(number, " ".join(match[1].split()), whole=False)


def _found(number: int, text: str, *, whole: bool) -> Iterator[Line]:
    found = _TOOL.match(re.split(r"\s#\s|^#", text)[0])
    if found and not _LABEL.match(text):
        yield Line(number, f"{found[1]} {found[2]}".strip(), whole)


def mistake(line: Line) -> str | None:
    """What the tool would not understand of `line`; None when it would."""
    words = shlex.split(line.text)
    for i, word in enumerate(words):
        if word in _ENDS or word.startswith((">", "<(")):
            words = words[:i]
            break
    return _mistake(TOOLS[words[0]], words[1:], whole=line.whole)


def _mistake(tool: Tool, words: list[str], *, whole: bool) -> str | None:
    if isinstance(tool, TyperGroup) and words and not words[0].startswith("-"):
        for name in words[0].split("|"):  # show|approve: each of them
            if name not in tool.commands:
                return f"no command {name}"
        found = [_mistake(tool.commands[n], words[1:], whole=whole) for n in words[0].split("|")]
        return next((said for said in found if said), None)
    options = {name: p for p in tool.params for name in (*p.opts, *p.secondary_opts)}
    given, values = set(), 0
    left = iter(words)
    for word in left:
        if not word.startswith("--"):
            values += word not in {"…", "..."}
            continue
        name = word.partition("=")[0]
        if name in {"--help"}:
            continue
        if name not in options:
            return f"no option {name}"
        given.add(options[name].name)
        takes = "=" not in word and not getattr(options[name], "is_flag", False)
        if takes and next(left, None) is None and whole:
            return f"no value for {name}"
    arguments = [p for p in tool.params if isinstance(p, TyperArgument)]
    if values > len(arguments) and all(a.nargs == 1 for a in arguments):
        return f"{values} arguments, and it takes {len(arguments)}"
    if whole and not isinstance(tool, TyperGroup):
        return _missing(tool, arguments, given, values)
    return None


def _missing(
    tool: Tool,
    arguments: list[TyperArgument],
    given: set[str | None],
    values: int,
) -> str | None:
    if values < sum(a.required for a in arguments):
        return "an argument is missing"
    wanted = [p for p in tool.params if p.required and not isinstance(p, TyperArgument)]
    return next((f"{p.opts[0]} is missing" for p in wanted if p.name not in given), None)
