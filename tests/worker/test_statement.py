"""What the data protection officer gets is true, names nobody, and cannot be changed unseen."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from primia.audit.ledger import audit_ledger
from primia.config.site import Caps, DataSource, SiteConfig
from primia.errors import IdentityError, StateError
from primia.findings import Verdict
from primia.identity import authority, keyfile
from primia.identity.enrolment import make_request
from primia.identity.signing import sign
from primia.privacy import DpSgd, Ledger, Members, epsilon
from primia.types import SiteId, sha256
from worker.home import SiteIdentity
from worker.statement import LABEL, _canonical, check_statement, write_statement

PATIENT, FILM = bytes(range(16)), bytes(range(16, 32))
CONFIG = SiteConfig(
    data=DataSource(kind="npz", path=Path("a.npz")), caps=Caps(max_epsilon=8.0, max_delta=1e-4)
)


@pytest.fixture
def identity(tmp_path: Path) -> SiteIdentity:
    now = datetime.now(UTC)
    made = authority.create(tmp_path / "authority", "study", now=now, valid_days=9)
    key = keyfile.new_key()
    site = SiteId("north")
    certificate = made.issue_site(make_request(key), site, now=now, valid_days=9)
    return SiteIdentity(site, "127.0.0.1:1", certificate, made.certificate, key)


@pytest.fixture
def written(tmp_path: Path, identity: SiteIdentity) -> Path:
    with Ledger(tmp_path / "ledger.db", create=True) as ledger:
        for number in (1, 2):
            ledger.charge(
                plan=sha256(b"plan"), round_number=number, attempt=number,
                mechanism=DpSgd(0.1, 1.0, 5), update=sha256(b"%d" % number), cap_epsilon=8.0,
                cap_delta=1e-4, time=f"2026-01-0{number}", study="<lungs>", site="north",
                members=Members("k", {PATIENT: frozenset({FILM})}),
            )  # fmt: skip
        ledger.withdraw(PATIENT, "k", "2026-02-01")
    write_statement(tmp_path / "out", tmp_path, CONFIG, identity)
    return tmp_path / "out" / "statement.json"


def test_a_statement_says_what_the_ledger_says_and_names_no_patient(
    written: Path, identity: SiteIdentity
) -> None:
    found = check_statement(written, identity.authority)
    spent = epsilon([DpSgd(0.1, 1.0, 10)], 1e-4)
    assert found.content["epsilon_spent"] == spent
    assert found.content["epsilon_left"] == 8.0 - spent
    (study,) = found.content["studies"]
    assert (study["study"], study["releases"]) == ("<lungs>", 2)
    assert study["mechanisms"][0]["steps"] == 10
    assert found.content["withdrawals"] == ["2026-02-01"]
    assert found.content["chain"]["rows"] == 3
    page = (written.parent / "statement.html").read_text()
    assert f"{spent:.3f}" in page
    assert "&lt;lungs&gt;" in page
    assert found.content["chain"]["head"] in page
    for text in (written.read_text(), page):
        assert PATIENT.hex() not in text
        assert FILM.hex() not in text


def test_the_audit_reads_a_statement_as_it_is_written_and_prices_it_again(written: Path) -> None:
    ledger = written.parents[1]
    assert audit_ledger(ledger, statement=written).verdict is Verdict.NOT_REFUTED
    signed = json.loads(written.read_text())
    signed["statement"]["epsilon_spent"] /= 2
    written.write_text(json.dumps(signed))
    assert audit_ledger(ledger, statement=written).verdict is Verdict.REFUTED


def test_a_statement_that_was_changed_is_found(written: Path, identity: SiteIdentity) -> None:
    signed = json.loads(written.read_text())
    signed["statement"]["epsilon_spent"] = 0.1
    written.write_text(json.dumps(signed))
    with pytest.raises(IdentityError, match="does not hold"):
        check_statement(written, identity.authority)


def test_a_statement_signed_by_a_stranger_in_the_sites_name_is_found(
    tmp_path: Path, written: Path, identity: SiteIdentity
) -> None:
    now = datetime.now(UTC)
    other = authority.create(tmp_path / "other", "study", now=now, valid_days=9)
    key = keyfile.new_key()
    signed = json.loads(written.read_text())
    signed["statement"]["epsilon_spent"] = 0.1
    signed["signature"] = sign(key, LABEL, _canonical(signed["statement"])).hex()
    from primia.identity.certificate import to_pem

    certificate = other.issue_site(make_request(key), SiteId("north"), now=now, valid_days=9)
    signed["certificate"] = to_pem(certificate).decode()
    written.write_text(json.dumps(signed))
    with pytest.raises(IdentityError):
        check_statement(written, identity.authority)


def test_something_else_is_no_statement(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(StateError, match="not a statement"):
        check_statement(tmp_path / "x.json", None)


@pytest.mark.parametrize("spoiled", ["[" * 100_000, '{"statement": {"site": NaN}}', "{}", "[1]"])
def test_a_file_that_is_no_statement_is_said_to_be_none(tmp_path: Path, spoiled: str) -> None:
    path = tmp_path / "statement.json"
    path.write_text(spoiled)
    with pytest.raises(StateError, match="not a statement"):
        check_statement(path, None)
