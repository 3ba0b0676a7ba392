"""What was found: a numbered list of what to do, and one line for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from worker.doctor.visit import Finding, State, Visit

_COMMAND = "run: "
_MARKS = {
    State.WELL: ("ok", "green"),
    State.LOOK: ("look", "yellow"),
    State.MEND: ("mend", "bold red"),
    State.OPEN: ("-", "dim"),
}

Lines = Iterator[Text | Table | Padding]


def must_mend(visit: Visit) -> bool:
    """Whether something stops this site from taking part."""
    return any(f.state is State.MEND for f in visit.findings)


def as_json(visit: Visit) -> dict[str, Any]:
    """For `--json`."""
    return {
        "well": not must_mend(visit),
        "checks": [finding.as_dict() for finding in visit.findings],
    }


def render(visit: Visit, *, verbose: bool = False) -> Lines:
    """For people; what blocks most comes first. verbose: every check, not only what is to do."""
    if verbose:
        yield _every(visit.findings)
        yield Text()
    todo = _of(visit, State.MEND)
    numbers = {finding.name: i for i, finding in enumerate(todo, start=1)}
    if todo:
        yield Text("To mend before this site can take part:", style="bold red")
    for finding in todo:
        yield from _entry(numbers[finding.name], finding.todo, finding)
    look = _of(visit, State.LOOK)
    if look:
        yield Text("\nWorth a look:" if todo else "Worth a look:", style="bold yellow")
    for number, finding in enumerate(look, start=len(todo) + 1):
        yield from _entry(number, finding.name.capitalize(), finding)
    left = _of(visit, State.OPEN)
    if left:
        yield Text("\nNot checked:" if todo or look else "Not checked:", style="bold")
        yield from _left_open(left, numbers)
    well = len(_of(visit, State.WELL))
    if well == len(visit.findings):
        yield Text(f"All is well ({well} checks).", style="bold green")
    else:
        yield Text(f"\nEverything else is well ({well} checks).", style="green")


def _of(visit: Visit, state: State) -> list[Finding]:
    return [finding for finding in visit.findings if finding.state is state]


def _entry(number: int, title: str, finding: Finding) -> Lines:
    """What, why, remedy. A command stands alone, so that it can be copied whole."""
    why, _, command = finding.text.partition(f"; {_COMMAND}")
    yield Text(f"\n{number:2}. {title}", style="bold")
    yield Padding(Text(why), (0, 0, 0, 4))
    if command:
        yield Text(f"    {_COMMAND}{command}", no_wrap=True, overflow="ignore")


def _left_open(left: list[Finding], numbers: dict[str, int]) -> Lines:
    because: dict[str, list[str]] = {}
    for finding in left:
        because.setdefault(finding.because, []).append(finding.name)
    for cause, names in because.items():
        if cause in numbers:
            yield Padding(Text(f"{', '.join(names)}: first mend {numbers[cause]}"), (0, 0, 0, 4))
        elif cause:
            yield Padding(Text(f"{', '.join(names)}: neither was {cause}"), (0, 0, 0, 4))
    for finding in left:
        if not finding.because:
            yield Padding(Text(f"{finding.name}: {finding.text}"), (0, 0, 0, 4))


def _every(findings: list[Finding]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.state]
        text = finding.text or f"not checked, because of: {finding.because}"
        table.add_row(Text(mark, style=style), finding.name, Text(text))
    return table
