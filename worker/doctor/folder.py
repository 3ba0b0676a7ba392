"""The state folder: whether this site is enrolled, who may read it, who it is."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from primia.config.site import SiteConfig
from primia.errors import IdentityError, StateError
from primia.identity.expiry import days_left, threshold
from primia.storage.disk import Disk
from worker.books import key_path, ledger_path
from worker.doctor.visit import Seen
from worker.home import SiteIdentity, is_enrolled, load

_FOLDER, _FILE = 0o700, 0o600


def enrolment(folder: Path) -> Seen[None]:
    """Does the folder hold an identity? Raises StateError."""
    try:
        os.stat(folder)
    except FileNotFoundError as err:
        raise StateError(
            f"there is no state folder {folder.resolve()}; name another with --state, or run: "
            "primia-worker enrol CODE"
        ) from err
    if not os.access(folder, os.R_OK | os.X_OK):
        raise StateError(f"{folder} cannot be read by this account; {_as_owner(folder)}")
    if not is_enrolled(folder):
        raise StateError(
            f"{folder} holds no identity; ask the coordinator's operator for an invitation, then "
            "run: primia-worker enrol CODE"
        )
    return Seen(None, str(folder.resolve()))


def modes(folder: Path, config: SiteConfig | None) -> Seen[None]:
    """Is the folder, and what is secret in it, for its owner alone? Raises IdentityError."""
    files = [folder / name for name in ("split.key", "worker.db", "audit.jsonl")]
    files += [folder / "identity" / "site.key"]
    ledger = folder / "ledger.db" if config is None else ledger_path(folder, config)
    files += [ledger, key_path(ledger)]
    folders = list(dict.fromkeys([folder, folder / "identity", ledger.parent]))
    wrong: dict[int, list[Path]] = {}
    for wanted, paths in ((_FOLDER, folders), (_FILE, files)):
        for path in paths:
            if path.exists() and stat.S_IMODE(path.stat().st_mode) & ~wanted:
                wrong.setdefault(wanted, []).append(path)
    if wrong:
        found = ", ".join(
            f"{p} has mode {stat.S_IMODE(p.stat().st_mode):04o}"
            for ps in wrong.values()
            for p in ps
        )
        commands = " && ".join(
            f"chmod {mode:o} {' '.join(map(str, paths))}" for mode, paths in wrong.items()
        )
        raise IdentityError(f"{found} and is open to others; run: {commands}")
    concern = ""
    if folder.stat().st_uid != os.geteuid():
        concern = f"this account does not own {folder}, so others' rights were tried; "
        concern += _as_owner(folder)
    return Seen(None, "the folder 0700, keys and books 0600", concern)


def _as_owner(folder: Path) -> str:
    return f"run the doctor as the worker's own account (user id {folder.stat().st_uid})"


def identity(folder: Path, disk: Disk) -> Seen[SiteIdentity]:
    """Who this site is, and until when. Raises IdentityError, StateError."""
    found = load(folder, disk, private=False)  # who may read the key was asked before
    now = datetime.now(UTC)
    concerns = []
    days = days_left(found.certificate, now)
    if threshold(days) is not None:
        concerns.append(
            f"this site's certificate ends in {days:.0f} days and is not being renewed; run the "
            "worker, which renews it, or ask the coordinator's operator"
        )
    if threshold(days_left(found.roots[-1], now)) is not None:
        left = days_left(found.roots[-1], now)
        concerns.append(
            f"the study's authority ends in {left:.0f} days; its operator has to rotate it"
        )
    return Seen(
        found,
        f"{found.site}, at the coordinator {found.address}; certificate ends in {days:.0f} days, "
        "renewed by itself while the worker runs",
        "; ".join(concerns),
    )
