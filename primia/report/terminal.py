"""The study in a terminal: rich tables of its attempts and sites, and a summary in a few lines.

Everything from outside is set as `Text`, never as rich markup, and passes `words.clean`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rich import box
from rich.table import Table
from rich.text import Text

from primia.report import plan_words, view, words
from primia.report.record import StudyRecord

_NO_EPSILON: Mapping[int, float] = MappingProxyType({})
_OUTCOME_STYLE = {"committed": "green", "aborted": "red", "open": "yellow"}


def rounds_table(
    record: StudyRecord, *, epsilon_by_round: Mapping[int, float] = _NO_EPSILON
) -> Table:
    """One line for each attempt: who was in it, what it made, or why it aborted.

    epsilon_by_round: ε after a site has taken part in so many rounds.
    """
    table = Table(box=box.SIMPLE_HEAD, title=Text(f"rounds of {words.clean(record.study)}"))
    table.add_column("round", justify="right")
    table.add_column("outcome")
    table.add_column("sites", justify="right")
    voted = any(a.votes is not None for a in record.attempts)
    for name in (
        *(["votes"] if voted else []),
        "AUC",
        "loss",
        *(["ε"] if epsilon_by_round else []),
        "time",
    ):
        table.add_column(name, justify="right")
    table.add_column("absent, reason", overflow="fold")
    invited = len(words.look_up(record.plan, "sites") or view.site_names(record))
    for row in view.attempt_rows(record, epsilon_by_round):
        attempt = row.attempt
        best = "*" if row.scores and attempt.number == record.best else ""
        table.add_row(
            Text(row.label),
            Text(words.clean(attempt.outcome), style=_OUTCOME_STYLE.get(attempt.outcome, "")),
            f"{len(attempt.contributors)}/{invited}",
            *([view.votes_text(attempt)] if voted else []),
            Text(best + words.number_text(row.scores.auc if row.scores else None)),
            words.number_text(row.scores.loss if row.scores else None),
            *([words.epsilon_text(row.epsilon)] if epsilon_by_round else []),
            words.duration_text(row.seconds),
            Text(_troubles(row)),
        )
    return table


def sites_table(record: StudyRecord) -> Table:
    """One line for each site: the rounds it gave, what was charged, and its ε."""
    private = plan_words.is_private(record)
    table = Table(box=box.SIMPLE_HEAD, title=Text(f"sites of {words.clean(record.study)}"))
    table.add_column("site")
    table.add_column("rounds in a sum", justify="right")
    table.add_column("updates charged", justify="right")
    table.add_column(
        f"ε at δ = {words.delta_text(record.delta)}" if private else "ε", justify="right"
    )
    table.add_column("certificate")
    for site in record.sites:
        table.add_row(
            Text(words.clean(site.site) + (" (struck)" if site.struck_at is not None else "")),
            str(site.rounds_contributed),
            str(site.rounds_charged),
            words.epsilon_text(site.epsilon) if private else Text("no privacy", style="bold red"),
            Text(words.clean(site.certificate)[:16] + "…", style="dim"),
        )
    return table


def summary(record: StudyRecord) -> Text:
    """State, quality and privacy of the study, one line each."""
    best, last = view.best_and_last(record)
    planned = words.look_up(record.plan, "rounds")
    of = f" of {planned}" if planned else ""
    text = Text(f"{words.clean(record.study)}: {words.clean(record.state)}", style="bold")
    text.append(f", {len(record.committed)}{of} rounds committed\n", style="not bold")
    for note in record.notes:
        text.append(f"{words.clean(note)}\n", style="bold red")
    if last is None or last.scores is None:
        text.append("AUC: no model has been evaluated yet\n", style="not bold")
    else:
        at = f"round {last.number}, {last.scores.films:,} validation films"
        text.append(f"AUC: {last.scores.auc:.3f} last ({at})", style="not bold")
        if best is not None and best.scores is not None:
            text.append(f", {best.scores.auc:.3f} best (round {best.number})", style="not bold")
        text.append("\n")
    if record.returns:
        last_return = record.returns[-1]
        name = "evaluation" if last_return.kind == "evaluate" else f"round {last_return.number}"
        text.append(
            f"votes: {len(record.returns)} rejected; {name} {view.return_text(last_return)}\n",
            style="yellow not bold",
        )
    if plan_words.is_private(record):
        spent = words.epsilon_text(view.highest_epsilon(record))
        text.append(
            f"privacy: ε = {spent}, δ = {words.delta_text(record.delta)}, "
            "add or remove one patient, by the rounds seen here (a hospital's own ledger decides)",
            style="not bold",
        )
    else:
        text.append("privacy: none. The models are not differentially private.", style="bold red")
    return text


def _troubles(row: view.AttemptRow) -> str:
    lost = [f"{words.clean(a.site)}: {words.clean(a.phase)}" for a in row.attempt.lost]
    if row.attempt.outcome == "aborted":
        lost.append(words.clean(row.attempt.reason))
    return "; ".join(filter(None, [*lost, view.return_text(row.attempt)]))
