"""What the commands beside the daemons show and change."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from primia.errors import ConfigError
from primia.identity.certificate import Role
from primia.infer import home
from primia.infer.data_store import DataStore
from primia.types import SiteId
from primia.wire.inference_handler import Terms


def roster_json(folder: Path) -> list[dict[str, Any]]:
    """Everybody who enrolled, and who has a code that was not used."""
    store, _ = home.open_model(folder)
    try:
        dealer, stocked = store.noted("dealer"), store.stocked()
        found: list[dict[str, Any]] = []
        for site in store.sites():
            row = {
                "name": site.site,
                "role": "dealer" if site.site == dealer else "data-owner",
                "state": "enrolled" if site.struck_at is None else "struck",
                "last_seen": site.last_seen,
            }
            if site.site != dealer:
                row |= asdict(store.budget(site.site)) | {
                    "stocked": stocked.get(site.site, 0),
                    "material_bytes": store.material_bytes(site.site),
                }
            found.append(row)
        for code in store.open_invitations():
            role = "dealer" if code.site == dealer else "data-owner"
            found.append(
                {"name": code.site, "role": role, "state": "invited", "expires_at": code.expires_at}
            )
        return found
    finally:
        store.close()


def roster_table(folder: Path) -> Table:
    """The same for people."""
    table = Table(box=None, pad_edge=False)
    states = {"enrolled": "", "struck": "[yellow]struck[/]", "invited": "invited"}
    for name in ("name", "role", "films asked", "in 24 hours", "stocked", "MB", ""):
        table.add_column(name)
    for row in roster_json(folder):
        asked = f"{row['asked']} of {row['films']}" if "films" in row else "-"
        today = f"{row['asked_today']} of {row['per_day']}" if "films" in row else "-"
        size = f"{row['material_bytes'] / 1e6:.0f}" if "films" in row else "-"
        table.add_row(
            row["name"], row["role"], asked, today, str(row.get("stocked", "-")), size,
            states[row["state"]],
        )  # fmt: skip
    return table


def strike(folder: Path, name: SiteId) -> None:
    """Refuse somebody from the next call on. Raises StateError for a name that is not there."""
    store, _ = home.open_model(folder)
    try:
        store.strike(name)
    finally:
        store.close()


def budget(folder: Path, name: SiteId, *, films: int | None, per_day: int | None) -> dict[str, int]:
    """A data owner's budget, changed where a number is given. Raises ConfigError."""
    store, _ = home.open_model(folder)
    try:
        known = {s.site for s in store.sites()} | {i.site for i in store.open_invitations()}
        if name not in known or name == store.noted("dealer"):
            raise ConfigError(f"{name} is no data owner of this service; see: primia infer roster")
        if films is not None or per_day is not None:
            store.set_budget(name, films=films, per_day=per_day)
        return asdict(store.budget(name))
    finally:
        store.close()


def terms(noise: float, profile: str) -> Terms:
    """As the command line gives them. Raises ConfigError."""
    try:
        return Terms(noise, profile)  # type: ignore[arg-type]
    except ValueError as err:
        raise ConfigError(str(err)) from err


def trust(folder: Path, fingerprint: str) -> None:
    """Pin another certificate of the dealer. Raises ConfigError for what is no fingerprint."""
    mark = home.plain(fingerprint)
    if len(mark) != 64:
        raise ConfigError(f"{fingerprint!r} is not a fingerprint, which has 32 pairs such as ab:0c")
    home.load(folder, Role.SITE)
    store = DataStore(folder)
    try:
        store.discard()
        store.audit.append("dealer_trusted", fingerprint=bytes.fromhex(mark).hex(":"))
        store.note("dealer", mark)
    finally:
        store.close()


def discard(folder: Path) -> int:
    """Spend everything that is stocked at a data owner; returns how many sessions that were."""
    home.load(folder, Role.SITE)
    store = DataStore(folder)
    try:
        return store.discard()
    finally:
        store.close()
