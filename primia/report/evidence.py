"""What the privacy section says and on what it rests: claims, trust, findings."""

from __future__ import annotations

from dataclasses import dataclass

from primia.findings import Finding, Picture, Table, Verdict
from primia.report import plan_words
from primia.report.record import StudyRecord
from primia.report.report import Report
from primia.report.words import clean, delta_text, epsilon_text, look_up

MOST_ROWS = 60  # of one table of a finding; report.json has all of them
MOST_COLUMNS = 12
MOST_PICTURES = 12
_SMALL = 200  # pixels; a picture below is enlarged in whole steps

_COLOURS = {
    Verdict.NOT_REFUTED: "good",
    Verdict.HELD: "good",
    Verdict.REFUTED: "bad",
    Verdict.FELL: "bad",
    Verdict.TOLD: "told",
}


@dataclass(frozen=True)
class ShownTable:
    """A finding's table, bounded. more: rows that are not shown."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int


@dataclass(frozen=True)
class ShownPicture:
    """A finding's picture, with the size it is shown at."""

    picture: Picture
    width: int
    height: int
    enlarged: bool


@dataclass(frozen=True)
class ShownFinding:
    """One finding as the page sets it. colour: good | bad | told."""

    finding: Finding
    colour: str
    tables: tuple[ShownTable, ...]
    pictures: tuple[ShownPicture, ...]


def shown_findings(report: Report) -> tuple[ShownFinding, ...]:
    """All findings, those against a claim or a protection first."""
    order = sorted(report.findings, key=lambda f: f not in report.alarms)
    return tuple(
        ShownFinding(
            f,
            _COLOURS[f.verdict],
            tuple(map(_table, f.tables)),
            tuple(map(_picture, f.pictures[:MOST_PICTURES])),
        )
        for f in order
    )


def _table(table: Table) -> ShownTable:
    rows = tuple(row[:MOST_COLUMNS] for row in table.rows[:MOST_ROWS])
    return ShownTable(table.columns[:MOST_COLUMNS], rows, len(table.rows) - len(rows))


def _picture(picture: Picture) -> ShownPicture:
    """The size stands in the first chunk of a PNG (width and height, 4 bytes each)."""
    width, height = (int.from_bytes(picture.png[i : i + 4], "big") for i in (16, 20))
    width, height = max(1, min(width, 4000)), max(1, min(height, 4000))
    factor = max(1, _SMALL // max(width, height))
    return ShownPicture(picture, width * factor, height * factor, factor > 1)


def claim_rows(record: StudyRecord) -> tuple[tuple[str, str], ...]:
    """What is promised to whom, and how it is counted."""
    if not plan_words.is_private(record):
        return (
            ("Promise", "none: no ε bounds what these models tell of a patient"),
            ("Unit", "none"),
        )
    planned = epsilon_text(record.planned_epsilon)
    accountant = "privacy loss distribution (PLD)"
    if look_up(record.plan, "privacy.noise") == "distributed":
        accountant = "Rényi differential privacy of the distributed discrete Gaussian"
    version = clean(record.versions.get("dp-accounting", "version not told"))
    return (
        (
            "Unit",
            "one patient, with all of his or her films at one hospital; two sets of patients are "
            "neighbours when one has one patient more",
        ),
        (
            "Promise",
            f"ε = {planned} at δ = {delta_text(record.delta)} for a site that is in every round, "
            "against whoever sees every model",
        ),
        (
            "Accountant",
            f"{accountant}, by dp-accounting {version}, rounded so that it errs upwards; Poisson "
            "sampling of patients, as it is done",
        ),
        (
            "Who counts",
            "each hospital, in its own ledger, over all its studies, before anything leaves; the "
            "table below is what the coordinator saw",
        ),
    )


def trust_rows(record: StudyRecord) -> tuple[tuple[str, str], ...]:
    """Who could learn what, and on whom that rests."""
    groups = look_up(record.plan, "aggregation.groups") or 1
    what = "the sum of the hospitals’ updates" if groups == 1 else f"{groups} sums of updates"
    rows = [
        (
            "Coordinator",
            f"may read all it receives, and may lie; of a round it gets {what}, never one’s own",
        ),
        (
            "Other hospitals",
            "masks hide an update while fewer than a third of them (above a hundred: a fifth) pool "
            "what they know with the coordinator",
        ),
        ("Network", "hostile: mutual TLS, identity from certificates of the study’s authority"),
        ("Whoever gets a model", "may attack it with all knowledge; only ε and δ bound that"),
    ]
    if plan_words.is_private(record):
        rows.append(("Noise", "added by " + plan_words.noise_in_words(record)))
    else:
        rows.append(("Noise", "none: whoever gets a model may learn from it what it remembers"))
    rows.append(
        (
            "Not covered",
            "the operating system and the people with root on either side; a hospital that poisons "
            "its own update within the checks on it",
        )
    )
    return tuple(rows)
