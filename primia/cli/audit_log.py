"""`primia audit-log`: check an audit log, and write it out for an auditor; works offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primia.cli.console import Json, out, print_json

if TYPE_CHECKING:
    from primia.storage.audit_log import Line

app = typer.Typer(no_args_is_help=True, help="Check an audit log; write it out for an auditor.")

Log = Annotated[
    Path, typer.Argument(metavar="FILE", help="audit.jsonl, or the state folder that holds it.")
]

SIGNED = {"heads_countersigned", "head_countersigned"}


@app.command()
def verify(
    log: Log,
    against: Annotated[
        Path | None,
        typer.Option(help="The other side's log: it must hold the heads that were countersigned."),
    ] = None,
    json: Json = False,
) -> None:
    """Check every line of the chain, and what the two sides countersigned; exit 1 if one fails."""
    from primia.storage.audit_log import read

    path = _file(log)
    lines, torn = read(path)
    heads = check_own_heads(path, lines)
    if against is not None:
        other = _file(against)
        others, _ = read(other)
        check_own_heads(other, others)
        heads += cross_check(path, lines, other, others)
    if json:
        print_json({"lines": len(lines), "head": _head(lines), "torn": torn, "heads": heads})
        return
    out.print(f"[green]ok[/]  {len(lines)} lines, the chain holds; head {_head(lines)}")
    out.print(f"{heads} countersigned heads hold")
    if torn:
        out.print("a crash left half a line at the end; the daemon cuts it off at its next start")


@app.command()
def export(
    log: Log,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A new file, .json or .csv.")],
) -> None:
    """Check the log and write all its lines, its head and the countersignatures to OUT."""
    from primia.errors import ConfigError, StateError
    from primia.storage.audit_log import read

    if target.suffix not in (".json", ".csv"):
        raise ConfigError(f"{target}: name a file that ends in .json or .csv")
    path = _file(log)
    lines, _ = read(path)
    check_own_heads(path, lines)
    try:
        with target.open("x", encoding="utf-8", newline="") as file:
            file.write(_as_json(lines) if target.suffix == ".json" else _as_csv(lines))
    except FileExistsError as err:
        raise StateError(f"{target} exists; name a new file") from err
    except OSError as err:
        raise StateError(f"cannot write {target}: {err.strerror}; choose another path") from err
    out.print(f"[green]wrote[/] {len(lines)} lines to {target}", soft_wrap=True)


def check_own_heads(path: Path, lines: list[Line]) -> int:
    """Hold a worker's log against the heads that it had countersigned; returns how many.

    Raises StateError naming the first line that does not fit. (A coordinator's log holds heads of
    other logs only.)
    """
    found = [x for x in lines if x.event == "head_countersigned"]
    for line in found:
        _must_hold(path, lines, line.fields["audit"], line.fields["audit_digest"], path, line)
    return len(found)


def cross_check(path: Path, lines: list[Line], other: Path, others: list[Line]) -> int:
    """Hold two logs of one study against each other's countersigned heads; returns how many.

    Raises StateError for the first that does not fit, ConfigError when the two are not the logs
    of a site and of a coordinator.
    """
    from primia.errors import ConfigError

    site = next((x.fields["site"] for x in lines if x.event == "enrolled"), None)
    if site is None:
        path, lines, other, others = other, others, path, lines
        site = next((x.fields["site"] for x in lines if x.event == "enrolled"), None)
    if site is None or any(x.event == "enrolled" for x in others):
        raise ConfigError(f"{path} and {other} are not the logs of one site and its coordinator")
    seen = [x for x in others if x.event == "heads_countersigned" and x.fields["site"] == site]
    for line in seen:
        _must_hold(path, lines, line.fields["audit"], line.fields["audit_digest"], other, line)
    mine = [x for x in lines if x.event == "head_countersigned"]
    for line in mine:
        digest = line.fields["coordinator_digest"]
        _must_hold(other, others, line.fields["coordinator"], digest, path, line)
    return len(seen) + len(mine)


def _must_hold(
    path: Path, lines: list[Line], number: int, digest: str, witness: Path, witness_line: Line
) -> None:
    from primia.errors import StateError

    if number and (number > len(lines) or lines[number - 1].digest != digest):
        raise StateError(
            f"{path}: line {number} is not the one that line {witness_line.number} of {witness} "
            "countersigned; the log was rolled back or written anew: restore the newest copy"
        )


def _file(path: Path) -> Path:
    from primia.storage.audit_log import FILE

    return path / FILE if path.is_dir() else path


def _head(lines: list[Line]) -> str:
    from primia.storage.audit_log import GENESIS

    return lines[-1].digest if lines else GENESIS


def _rows(lines: list[Line]) -> list[dict[str, Any]]:
    return [
        {
            "number": x.number, "time": x.time, "event": x.event, "fields": dict(x.fields),
            "previous": x.previous, "digest": x.digest,
        }
        for x in lines
    ]  # fmt: skip


def _as_json(lines: list[Line]) -> str:
    import json

    found = {
        "format": "primia-audit-log/1",
        "head": {"lines": len(lines), "digest": _head(lines)},
        "countersignatures": _rows([x for x in lines if x.event in SIGNED]),
        "lines": _rows(lines),
    }
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def _as_csv(lines: list[Line]) -> str:
    """One row a line, countersignatures among them; the last digest is the head."""
    import csv
    import io
    import json

    sink = io.StringIO()
    table = csv.writer(sink)
    table.writerow(["number", "time", "event", "fields", "previous", "digest"])
    for row in _rows(lines):
        row["fields"] = json.dumps(row["fields"], allow_nan=False)
        table.writerow(row.values())
    return sink.getvalue()
