"""Make films, authority and sites in a folder, and run a federation of real processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from primia.demo.display import Board, SiteView
from primia.demo.films import HospitalFilms, divided_films, synthetic_films
from primia.demo.fleet import REFUSED, CallFailed, Daemon, call, free_port, stop_all
from primia.demo.plans import (
    GIVEN,
    SYNTHETIC,
    WITHOUT_PRIVACY,
    Recipe,
    plan,
    site_file,
    write_yaml,
)
from primia.errors import StateError


@dataclass(frozen=True)
class Wishes:
    """What the command line asked for."""

    sites: int
    rounds: int | None
    private: bool
    data: Path | None
    seed: int


def run(folder: Path, wishes: Wishes, console: Console) -> Path:
    """Run the demonstration in `folder`; returns the folder with report.html and result.json.

    Raises DataError for films that cannot be used, StateError when a daemon fails.
    """
    names = [f"hospital-{chr(97 + i)}" for i in range(wishes.sites)]
    films = _films(folder / "films", names, wishes, console)
    data = plan(
        sites=names,
        classes=films.classes,
        input_size=films.size,
        patients_per_site=films.patients_per_site,
        rounds=wishes.rounds,
        recipe=_recipe(wishes),
    )
    plan_file = write_yaml(data, folder / "plan.yaml")
    port = free_port()
    daemons: list[Daemon] = []
    try:
        with console.status("enrolling: authority, invitations, certificates, approvals"):
            codes = _found(folder, names, port)
            daemons.append(_coordinator(folder, plan_file, port))
            _enrol(folder, codes, films, private=wishes.private)
        for name in names:
            daemons.append(_worker(folder, name))
        board = Board({n: SiteView() for n in names}, data["rounds"], wishes.private)
        _follow(daemons, board, console)
    finally:
        stop_all(daemons)
    result = folder / "result"
    with console.status("writing the report"):
        call("coordinator", "export", str(result), "--state", str(folder / "coordinator"))
    with console.status("each hospital measures the model on its own films"):
        _measure(folder, names, result, console)
    return result


def _measure(folder: Path, names: list[str], result: Path, console: Console) -> None:
    """Each hospital's quality, and the form that it hands on, for the report."""

    def one(name: str) -> Path | None:
        state, shared = ("--state", str(folder / name)), folder / "shared" / f"{name}.json"
        config = ("--config", str(folder / f"{name}.yaml"))
        call(
            "worker", "quality", "measure", str(result), *config, *state, "--alone", "plain",
            "--json", timeout_s=86400,  # it trains
        )  # fmt: skip
        try:
            call(
                "worker", "quality", "share", str(shared), *state, "--as", "demonstration",
                "--role", "demonstration", "--json",
            )  # fmt: skip
        except CallFailed as err:
            if err.code != REFUSED:
                raise
            # Too few patients for a file that leaves: the study is none the worse for it.
            console.print(f"{name}: {err}", soft_wrap=True, markup=False)
            return None
        return shared

    with ThreadPoolExecutor(2) as pool:
        handed = [str(path) for path in pool.map(one, names) if path is not None]
    if handed:
        call("primia", "report", str(result), *[x for p in handed for x in ("--site-quality", p)])


def _recipe(wishes: Wishes) -> Recipe:
    if not wishes.private:
        return WITHOUT_PRIVACY
    return SYNTHETIC if wishes.data is None else GIVEN


def _films(folder: Path, names: list[str], wishes: Wishes, console: Console) -> HospitalFilms:
    if wishes.data is None:
        with console.status(f"drawing synthetic films for {len(names)} hospitals"):
            return synthetic_films(folder, names, seed=wishes.seed)
    with console.status(f"dividing {wishes.data.name} among {len(names)} hospitals by patient"):
        found = divided_films(folder, names, wishes.data)
    for warning in found.warnings:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True)
    return found


def _found(folder: Path, names: list[str], port: int) -> dict[str, str]:
    """The authority, and a code for each site."""
    home = str(folder / "coordinator")
    call("coordinator", "init", "demo", "--state", home)
    codes = {}
    for name in names:
        text = call(
            "coordinator", "invite", name,
            "--address", f"127.0.0.1:{port}", "--state", home, "--json",
        )  # fmt: skip
        codes[name] = json.loads(text)["code"]
    return codes


def _coordinator(folder: Path, plan_file: Path, port: int) -> Daemon:
    daemon = Daemon.start(
        "coordinator", folder / "coordinator.log", "coordinator", "start",
        "--plan", str(plan_file), "--listen", f"127.0.0.1:{port}",
        "--state", str(folder / "coordinator"),
    )  # fmt: skip
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if any(event.get("event") == "listening" for event in daemon.news()):
            return daemon
        if daemon.ended_badly():
            break
        time.sleep(0.1)
    stop_all([daemon])
    raise StateError(f"the coordinator did not start:\n{daemon.last_lines()}")


def _enrol(folder: Path, codes: dict[str, str], films: HospitalFilms, *, private: bool) -> None:
    def one(item: tuple[tuple[str, str], Path]) -> None:
        (name, code), path = item
        write_yaml(site_file(path, private=private), folder / f"{name}.yaml")
        state = ("--state", str(folder / name))
        call("worker", "enrol", code, *state)
        # In reality a person reads `plan show` first; whoever started this demonstration wants it.
        call(
            "worker", "plan", "approve", "--config", str(folder / f"{name}.yaml"), *state,
            "--as", "demonstration",
        )  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, zip(codes.items(), films.paths, strict=True)))


def _worker(folder: Path, name: str) -> Daemon:
    return Daemon.start(
        name, folder / f"{name}.log", "worker", "run",
        "--config", str(folder / f"{name}.yaml"), "--state", str(folder / name),
    )  # fmt: skip


def _follow(daemons: list[Daemon], board: Board, console: Console) -> None:
    """Show progress until the study is over. Raises StateError when a daemon dies."""
    coordinator, workers = daemons[0], daemons[1:]
    with Live(board.render(), console=console, refresh_per_second=4) as live:
        while not board.over:
            _hear(coordinator, board.hear_coordinator, console)
            for worker in workers:
                for event in worker.news():
                    board.hear_site(worker.name, event)
            live.update(board.render())
            for daemon in daemons:
                if daemon.ended_badly():
                    raise StateError(f"{daemon.name} ended:\n{daemon.last_lines()}")
            if coordinator.process.poll() is not None:
                _hear(coordinator, board.hear_coordinator, console)
                break
            time.sleep(0.2)
        live.update(board.render())
    if not board.over:
        raise StateError(f"the coordinator stopped early:\n{coordinator.last_lines()}")
    coordinator.process.wait(60)


def _hear(daemon: Daemon, take: Callable[[dict[str, Any]], str | None], console: Console) -> None:
    for event in daemon.news():
        line = take(event)
        if line is not None:
            console.print(line, highlight=False, soft_wrap=True)
