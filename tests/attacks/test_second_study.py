"""A second study on the same patients, under whatever name: charged on them, refused when spent."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from primia.config.site import Caps, DataSource, LedgerFile, SiteConfig
from primia.errors import BudgetExhausted, StateError
from primia.imaging.dataset import Cohort
from primia.imaging.export import write_site_npz
from primia.imaging.synth import CLASSES, synthesise
from primia.privacy import Members
from primia.types import SiteId, sha256
from tests.attacks.hospitals import Consortium, Hospital, plan
from worker.books import (
    check_budget,
    init_ledger,
    members_of,
    open_ledger,
    site_key,
    totals,
    withdraw_patient,
)
from worker.offer import read_cohort

SIZE = 28
STUDY = plan(model={"name": "small-cnn", "input_size": SIZE, "classes": list(CLASSES)})


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    """A hospital's file with a ledger for all studies, and its films."""
    films = {"north": synthesise(40, size=SIZE, seed=1, site=0)}
    (path,) = write_site_npz(films, tmp_path / "films", CLASSES)
    config = SiteConfig(
        data=DataSource(kind="npz", path=path),
        caps=Caps(max_epsilon=8.0, max_delta=1e-3, min_patients=5),
        ledger=LedgerFile(path=tmp_path / "privacy" / "ledger.db"),
    )
    init_ledger(tmp_path, config)
    return config


def folder(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir(mode=0o700, exist_ok=True)
    (made / "split.key").write_bytes(name.encode().ljust(32))
    return made


def cohort(where: Path, config: SiteConfig) -> tuple[Cohort, Members]:
    with open_ledger(where, config) as ledger:
        key = site_key(where, config)
        found = read_cohort(where, config, STUDY, key, ledger)
    assert found.manifest is not None
    return found, members_of(found.manifest, key)


def charge(where: Path, config: SiteConfig, study: str, steps: int = 3) -> None:
    from primia.privacy import DpSgd

    with open_ledger(where, config) as ledger:
        ledger.charge(
            plan=sha256(study.encode()), round_number=1, attempt=1,
            mechanism=DpSgd(0.5, 2.0, steps), update=sha256(study.encode()), cap_epsilon=1e6,
            cap_delta=1e-3, time="2026-01-01", members=cohort(where, config)[1], study=study,
            site="north",
        )  # fmt: skip


def spent(where: Path, config: SiteConfig) -> float:
    with open_ledger(where, config) as ledger:
        return ledger.spent(1e-3, cohort(where, config)[1])


def test_another_study_in_another_folder_finds_what_its_patients_have_spent(
    tmp_path: Path, site: SiteConfig
) -> None:
    charge(folder(tmp_path, "first"), site, "first")
    assert spent(folder(tmp_path, "second"), site) > 1


class _Someone:
    site = SiteId("north")


def test_a_study_past_the_budget_is_refused_before_training_and_says_spent_and_left(
    tmp_path: Path, site: SiteConfig
) -> None:
    charge(folder(tmp_path, "first"), site, "first", steps=25)
    where = folder(tmp_path, "second")
    _, members = cohort(where, site)
    with open_ledger(where, site) as ledger:
        now, after = totals(ledger, members, STUDY, _Someone(), 1e-3)  # type: ignore[arg-type]
    caps = site.caps.model_copy(update={"max_epsilon": now + 0.05})
    with pytest.raises(BudgetExhausted, match=rf"{now:.3f} spent.*0\.050 left.*{after:.3f}"):
        check_budget(now, after, caps, STUDY)
    check_budget(now, after, site.caps.model_copy(update={"max_epsilon": after}), STUDY)


def renamed(config: SiteConfig, tmp_path: Path, **changes: Any) -> SiteConfig:
    with np.load(config.data.path, allow_pickle=False) as found:
        arrays = dict(found) | {k: change(found[k]) for k, change in changes.items()}
    path = tmp_path / "renamed.npz"
    np.savez(path, allow_pickle=False, **arrays)
    return config.model_copy(update={"data": config.data.model_copy(update={"path": path})})


def test_patients_under_new_ids_are_found_by_their_films(tmp_path: Path, site: SiteConfig) -> None:
    where = folder(tmp_path, "first")
    charge(where, site, "first")
    before = spent(where, site)
    other = renamed(
        site, tmp_path, patient_ids=lambda ids: np.array([f"new-{i}" for i in ids], np.str_)
    )
    with open_ledger(where, other) as ledger:
        _, members = cohort(where, other)
        assert ledger.overlap(members).known == 0
        assert ledger.overlap(members).renamed > 0
    assert spent(where, other) == before


def test_a_deleted_ledger_is_not_begun_anew_and_neither_is_one_without_its_key(
    tmp_path: Path, site: SiteConfig
) -> None:
    where = folder(tmp_path, "first")
    charge(where, site, "first")
    assert site.ledger.path is not None
    key = site.ledger.path.with_suffix(".key")
    aside = key.rename(tmp_path / "aside.key")
    with pytest.raises(StateError, match="key of the ledger's fingerprints is missing"):
        site_key(where, site)
    aside.rename(key)
    for found in site.ledger.path.parent.glob("ledger.db*"):
        found.unlink()
    with pytest.raises(StateError, match="missing"):
        open_ledger(where, site)
    with pytest.raises(StateError, match="is there already"):
        init_ledger(where, site)


def test_fingerprints_under_a_fresh_key_are_refused(tmp_path: Path, site: SiteConfig) -> None:
    where = folder(tmp_path, "first")
    charge(where, site, "first")
    assert site.ledger.path is not None
    site.ledger.path.with_suffix(".key").write_bytes(bytes(32))
    with pytest.raises(StateError, match="another key"):
        charge(where, site, "second")


def test_a_withdrawn_patient_is_left_out_and_the_cohort_is_another_one(
    tmp_path: Path, site: SiteConfig
) -> None:
    where = folder(tmp_path, "first")
    before, members = cohort(where, site)
    charge(where, site, "first")
    key = site_key(where, site)
    name = next(n for n in (f"north-{i:05d}" for i in range(40)) if key.patient(n) in members.films)
    done = withdraw_patient(where, site, name, "")
    assert (done.new, done.cohorts) == (True, 1)
    after, left = cohort(where, site)
    assert members.films.keys() - left.films.keys() == {key.patient(name)}
    assert before.manifest is not None
    assert after.manifest is not None
    assert before.manifest.digest != after.manifest.digest
    assert spent(where, site) > 1  # the others' charges and this one's stay
    # Nor under another id.
    other = renamed(
        site, tmp_path, patient_ids=lambda ids: np.array([f"new-{i}" for i in ids], np.str_)
    )
    hidden, _ = cohort(where, other)
    films = {e.film for e in before.manifest.entries if e.patient == key.patient(name)}
    assert films
    assert hidden.manifest is not None
    assert not films & {e.film for e in hidden.manifest.entries}
    assert name.encode() not in site.ledger.path.read_bytes()  # type: ignore[union-attr]


def test_an_older_copy_of_a_shared_ledger_is_found_by_the_worker(tmp_path: Path) -> None:
    from worker.work import check_books

    study = Consortium(tmp_path)
    west: Hospital = study.hospitals[SiteId("west")]
    model = study.models.__getitem__
    west.work.prepare(study.round_id(1), model, lambda *_: None)
    west.ledger.close()
    shutil.copy(west.folder / "ledger.db", tmp_path / "old.db")
    west.start()
    west.work.prepare(study.round_id(2, model=1), model, lambda *_: None)
    west.ledger.close()
    for found in west.folder.glob("ledger.db*"):
        found.unlink()
    shutil.copy(tmp_path / "old.db", west.folder / "ledger.db")
    west.start()
    with pytest.raises(StateError, match="older"):
        check_books(west.ledger, west.state, None, west.site)


def test_rows_of_another_study_in_a_shared_ledger_are_no_ground_to_stop(tmp_path: Path) -> None:
    from primia.config.plan import plan_digest
    from primia.privacy import DpSgd
    from worker.work import check_books

    study = Consortium(tmp_path)
    west: Hospital = study.hospitals[SiteId("west")]
    work = replace(west.work, site=west.site)
    west.ledger.charge(
        plan=sha256(b"other"), round_number=1, attempt=1, mechanism=DpSgd(0.1, 2.0, 1),
        update=sha256(b"theirs"), cap_epsilon=900.0, cap_delta=1e-3, time="t", study="other",
        site="west",
    )  # fmt: skip
    work.prepare(study.round_id(1), study.models.__getitem__, lambda *_: None)
    check_books(west.ledger, west.state, plan_digest(west.plan), west.site)
    with pytest.raises(StateError, match="older"):
        check_books(west.ledger, west.state)


def test_a_worker_killed_between_store_and_charge_charges_the_same_update_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from primia.privacy import Ledger

    study = Consortium(tmp_path)
    west: Hospital = study.hospitals[SiteId("west")]
    model = study.models.__getitem__

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "charge", die)
        with pytest.raises(Killed):
            west.work.prepare(study.round_id(1), model, lambda *_: None)
    west.start()
    assert not west.ledger.rows()
    again = study.round_id(1)
    first, update = west.work.prepare(again, model, lambda *_: None)
    second, _ = west.work.prepare(again, model, lambda *_: None)
    assert np.array_equal(first, second)
    assert [row.update for row in west.ledger.rows()] == [update.digest]


def test_a_patient_withdrawn_while_films_are_read_is_not_trained_on(
    tmp_path: Path, site: SiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import offer as offers
    from worker.approval import NotApproved, Person, approve
    from worker.gate import ApprovalGate
    from worker.state import WorkerState

    where = folder(tmp_path, "first")
    state = WorkerState(where)
    monkeypatch.setattr(offers, "checked_plan", lambda *_: STUDY)

    def offered(ledger: Any) -> ApprovalGate:
        made = offers.make_offer(where, site, _Someone(), None, state, ledger)  # type: ignore[arg-type]
        approve(state, made.subject, Person("Ada", "", "ada"))
        return ApprovalGate(state, made.subject, ledger.withdrawals, withdrawn=made.withdrawn)

    def withdrawn_meanwhile(*args: Any) -> Cohort:
        read = read_cohort(*args)
        withdraw_patient(where, site, "north-00003", "")
        return read

    with open_ledger(where, site) as ledger:
        with monkeypatch.context() as patched:
            patched.setattr(offers, "read_cohort", withdrawn_meanwhile)
            gate = offered(ledger)
        with pytest.raises(NotApproved, match="withdrawn since the films were read"):
            gate.check()
        offered(ledger).check()
    state.close()
