"""A new study authority beside the old one, and the old one's end.

While both are valid the coordinator shows itself with the old one's certificate, which every site
trusts; sites get theirs from the new one. One database row makes an authority valid, one retires
it; keys lie on disk before the first and are deleted after the second.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from coordinator import home
from coordinator.state import CoordinatorState
from primia.errors import StateError
from primia.identity import authority, keyfile
from primia.identity.certificate import fingerprint, from_pem, is_issued_by, to_pem
from primia.identity.rotation import endorse
from primia.roster import AuthorityRow, Site
from primia.types import SiteId


def rotate(folder: Path, state: CoordinatorState) -> str:
    """Make a new authority, endorsed by the one in use; returns its fingerprint.

    Raises StateError: a rotation is under way, or the old authority's key is offline.
    """
    valid = home.valid_authorities(folder, state)
    if len(valid) > 1:
        raise StateError(
            "two authorities are valid already; end that rotation first: primia-coordinator "
            "authority retire"
        )
    old = home.signing_authority(folder, valid[0])
    study = state.noted("study") or ""
    place = folder / home.AUTHORITY / str(valid[0].number + 1)
    if place.exists():
        shutil.rmtree(place)  # of a rotation that was cut off: it has no row, so it is nothing
    made = authority.create(place, study, now=home.now(), valid_days=home.AUTHORITY_DAYS)
    own = made.issue_coordinator(
        home.coordinator_key(folder).public_key(),
        study,
        now=home.now(),
        valid_days=home.CERTIFICATE_DAYS,
    )
    state.add_authority(
        to_pem(made.certificate),
        coordinator=to_pem(own),
        endorsement=endorse(old, made.certificate),
    )
    return made.fingerprint


def retire(folder: Path, state: CoordinatorState, *, force: bool) -> tuple[str, bool]:
    """End the overlap: only the newer authority is valid from the next call on.

    Returns the retired authority's fingerprint, and whether its key was here and is deleted.
    force: also when sites are cut off by it, which then have to enrol again.
    Raises StateError: no rotation is under way, or (without force) sites would be cut off.
    """
    valid = home.valid_authorities(folder, state)
    if len(valid) < 2:
        _delete_retired_keys(folder, state)  # after a retirement that was cut off
        raise StateError("only one authority is valid; there is nothing to retire")
    behind = cut_off(state)
    if behind and not force:
        raise StateError(
            f"{', '.join(behind)} would be cut off: no call with a certificate of the newer "
            "authority yet. Wait until their workers were on line (primia-coordinator authority "
            "status), strike them, or retire with --force and invite them again"
        )
    state.retire_authority(valid[0])
    return fingerprint(from_pem(valid[0].certificate)), _delete_retired_keys(folder, state)


def cut_off(state: CoordinatorState) -> list[SiteId]:
    """Sites that would be refused, or would refuse us, if the older authority were retired now."""
    newest = from_pem(state.valid_authorities()[-1].certificate)
    return [s.site for s in state.enrolled() if not _moved(s, newest)]


def _moved(site: Site, newest: x509.Certificate) -> bool:
    """Whether it has *used* a certificate of the newer authority: then it trusts that one, too."""
    return site.seen and is_issued_by(from_pem(site.certificate), newest)


def _delete_retired_keys(folder: Path, state: CoordinatorState) -> bool:
    """A retired key could still endorse another authority at a site that heard nothing yet."""
    retired = {a.certificate for a in state.authorities() if a.retired_at is not None}
    deleted = False
    for place in (folder / home.AUTHORITY, *sorted((folder / home.AUTHORITY).glob("*/"))):
        file = place / authority.CERTIFICATE_FILE
        if file.exists() and keyfile.load(file) in retired:
            key = place / authority.KEY_FILE
            deleted |= key.exists()
            key.unlink(missing_ok=True)
    return deleted


@dataclass(frozen=True)
class Standing:
    """One authority for `authority status`; sites: those whose certificate in use is from it."""

    fingerprint: str
    state: str
    certificate: bytes
    key_here: bool
    sites: tuple[SiteId, ...]


def standings(folder: Path, state: CoordinatorState) -> list[Standing]:
    """Every authority, oldest first, and who is with it."""
    valid = home.valid_authorities(folder, state)
    return [_standing(folder, row, valid, state) for row in state.authorities()]


def _standing(
    folder: Path, row: AuthorityRow, valid: list[AuthorityRow], state: CoordinatorState
) -> Standing:
    newest = row.number == valid[-1].number
    behind = set(cut_off(state))
    enrolled = [s.site for s in state.enrolled()]
    if row.retired_at is not None:
        text, sites = "retired", []
    elif newest:
        text = "in use" if len(valid) == 1 else "new"
        sites = [s for s in enrolled if s not in behind]
    else:
        text, sites = "old, to be retired", [s for s in enrolled if s in behind]
    try:
        home.signing_authority(folder, row)
        here = True
    except StateError:
        here = False
    return Standing(
        fingerprint(from_pem(row.certificate)), text, row.certificate, here, tuple(sites)
    )
