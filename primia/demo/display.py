"""What a person sees while the demonstration runs, fed by the daemons' own log events."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from primia.report.words import epsilon_text


@dataclass
class SiteView:
    """The last that was heard of one site."""

    doing: str = "starting"
    epsilon: float | None = None


@dataclass
class Board:
    """The state of the show; `hear` takes log events, `render` draws."""

    sites: dict[str, SiteView]
    rounds: int
    private: bool
    began: float = field(default_factory=time.monotonic)
    phase: str = "starting"
    history: list[dict[str, Any]] = field(default_factory=list)  # scores of models 0, 1, …
    aborted: int = 0
    over: bool = False

    def hear_coordinator(self, event: dict[str, Any]) -> str | None:
        """Take one event of the coordinator; returns a line worth printing, if any."""
        match event.get("event"):
            case "phase":
                waiting = ", ".join(event["waiting_for"])
                last = event["round"] > self.rounds
                what = "last model" if last else f"round {event['round']}"
                self.phase = f"{what}: {event['phase']}" + (
                    f", waiting for {waiting}" if waiting else ""
                )
            case "round_committed":
                self.history.append(event)
                model = event["round"] - 1
                return (
                    f"model {model}: AUC {event['auc']:.3f}, loss {event['loss']:.3f} "
                    f"({len(event['sites'])} sites)"
                )
            case "round_aborted":
                self.aborted += 1
                return f"round {event['round']} aborted: {event['reason']}"
            case "study_over":
                self.over = True
        return None

    def hear_site(self, site: str, event: dict[str, Any]) -> None:
        """Take one event of a worker."""
        view = self.sites[site]
        match event.get("event"):
            case "working":
                view.doing = "evaluating" if event["kind"] == "evaluate" else "training"
            case "charged":
                view.epsilon = event["epsilon_spent"]
                view.doing = "trained"
            case "update_sent":
                view.doing = "sent its masked update"
            case "round_closed":
                view.doing = "waiting"
            case "coordinator_unreachable":
                view.doing = "no link, trying again"
            case "study_over":
                view.doing = "done"

    def render(self) -> RenderableType:
        """The board as it is now."""
        done = min(self.rounds, len(self.history))
        table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
        for name in ("site", "doing", "ε spent" if self.private else "privacy"):
            table.add_column(name, min_width=12)
        for name, view in self.sites.items():
            spent = epsilon_text(view.epsilon) if self.private else "none"
            table.add_row(name, view.doing, spent)
        last = self.history[-1] if self.history else None
        quality = "" if last is None else f"   AUC {last['auc']:.3f}   loss {last['loss']:.3f}"
        seconds = time.monotonic() - self.began
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"{done}/{self.rounds} rounds", style="bold"),
            ProgressBar(total=self.rounds, completed=done, width=40),
            Text(f"{seconds:.0f} s{quality}"),
        )
        return Group(head, Text(self.phase, style="dim"), table)
