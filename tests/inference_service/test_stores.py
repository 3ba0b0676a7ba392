"""One-time stores: nothing is used twice, whatever happens and whoever crashes when."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import BudgetExhausted, PeerError, StateError
from primia.identity.certificate import Identity, Role
from primia.infer import material
from primia.infer.binding import DATA, MODEL, Binding
from primia.infer.checking import dealt_for, opened_of, same
from primia.infer.data_store import DataStore
from primia.infer.model_store import ModelStore
from primia.types import Digest, SiteId
from primia.wire.inference_handler import Batch, Collected, DealtSession, Hello, Terms

PROGRAM = Digest("ab" * 32)
OTHER = Digest("cd" * 32)
SITE = SiteId("hospital")
OWNER = Identity(Role.MODEL, "chest")
HOSPITAL = Identity(Role.SITE, "hospital")


def batch(count: int, first: int = 1) -> Batch:
    rows = tuple(DealtSession(os.urandom(16), first + i, os.urandom(32)) for i in range(count))
    return Batch(os.urandom(16), rows)


def held(folder: Path, count: int = 3) -> tuple[DataStore, Batch]:
    store = DataStore(folder)
    made = batch(count)
    store.hold(Collected(PROGRAM, OWNER, 1, made))
    return store, made


def test_a_session_begins_once_and_its_seed_is_gone_from_the_file(tmp_path: Path) -> None:
    store, made = held(tmp_path)
    assert store.begin(PROGRAM, 1) is None  # not before the batch was checked
    store.release(made.batch)
    begun = [store.begin(PROGRAM, 1) for _ in range(4)]
    assert [b and b.session for b in begun] == [s.session for s in made.sessions] + [None]
    on_disk = b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())
    for session in made.sessions:
        assert session.seed not in on_disk


def test_what_was_begun_before_a_crash_is_spent_after_it(tmp_path: Path) -> None:
    store, made = held(tmp_path)
    store.release(made.batch)
    begun = store.begin(PROGRAM, 1)
    again = DataStore(tmp_path)  # the first one was killed: nothing of it was closed
    other = again.begin(PROGRAM, 1)
    assert begun is not None
    assert other is not None
    assert other.session != begun.session
    assert other.discarded == ()  # the first might be under way
    again.give_up(begun.session)
    last = again.begin(PROGRAM, 1)
    assert last is not None
    assert last.discarded == (begun.session,)


def test_opened_sessions_are_spent_before_their_seed_is_shown(tmp_path: Path) -> None:
    store, made = held(tmp_path)
    shown = store.show(made.batch, [made.sessions[1].session])
    assert shown == {made.sessions[1].session: made.sessions[1].seed}
    assert store.release(made.batch) == 2
    with pytest.raises(StateError):
        store.show(made.batch, [made.sessions[0].session])


def test_a_number_that_was_counted_before_refuses_the_whole_batch(tmp_path: Path) -> None:
    store, _ = held(tmp_path)
    with pytest.raises(PeerError, match="put back to an older copy"):
        store.hold(Collected(PROGRAM, OWNER, 1, batch(2, first=3)))
    store.hold(Collected(PROGRAM, OWNER, 1, batch(2, first=9)))


def test_sessions_of_another_version_are_discarded(tmp_path: Path) -> None:
    store, made = held(tmp_path)
    store.release(made.batch)
    assert store.discard(keep=PROGRAM) == 0
    assert store.discard(keep=OTHER) == 3
    assert store.begin(PROGRAM, 1) is None


def model_with(folder: Path, count: int = 2) -> tuple[ModelStore, Batch]:
    store = ModelStore(folder)
    numbers = store.order(SITE, PROGRAM, 1, count, 0)
    made = batch(count, first=numbers[0])
    keys = {s.session: os.urandom(32) for s in made.sessions}
    for session, key in keys.items():
        store.material.write(session, key, [b"corrections of", b" a session"])
    store.hold(made, keys)
    store.release(SITE, made.batch, [])
    return store, made


def hello(session: DealtSession, **other: object) -> Hello:
    fields: dict[str, object] = {
        "program": PROGRAM, "session": session.session, "number": session.number, "films": 1,
    }  # fmt: skip
    return Hello(**(fields | other))  # type: ignore[arg-type]


def test_the_model_owner_gives_a_session_once_and_deletes_it_first(tmp_path: Path) -> None:
    store, made = model_with(tmp_path)
    first = made.sessions[0]
    row, taken = store.begin(SITE, hello(first))
    assert not store.material.path(first.session).exists()
    assert b"".join(taken.messages(row.key)) == b"corrections of a session"
    on_disk = b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())
    assert row.key not in on_disk
    assert row.seed not in on_disk
    for book in (store, ModelStore(tmp_path)):
        with pytest.raises(PeerError, match="used before"):
            book.begin(SITE, hello(first))


@pytest.mark.parametrize(
    ("site", "change", "said"),
    [
        ("clinic", {}, "not known here"),
        ("hospital", {"number": 2}, "not known here"),
        ("hospital", {"number": 99}, "not known here"),
        ("hospital", {"program": OTHER}, "another program or number"),
        ("hospital", {"films": 2}, "another program or number"),
    ],
)
def test_a_session_is_bound_to_its_owner_number_program_and_size(
    tmp_path: Path, site: str, change: dict[str, object], said: str
) -> None:
    store, made = model_with(tmp_path)
    with pytest.raises(PeerError, match=said):
        store.begin(SiteId(site), hello(made.sessions[0], **change))
    store.begin(SITE, hello(made.sessions[0]))  # and nothing was spent by that


def test_a_refused_budget_spends_and_charges_nothing(tmp_path: Path) -> None:
    store, made = model_with(tmp_path)
    store.set_budget(SITE, films=0, per_day=None)
    with pytest.raises(BudgetExhausted):
        store.begin(SITE, hello(made.sessions[0]))
    assert store.budget(SITE).asked == 0
    assert store.stocked() == {SITE: 2}


def test_files_that_no_session_needs_are_swept(tmp_path: Path) -> None:
    store, made = model_with(tmp_path)
    (tmp_path / "material" / ("0" * 32)).write_bytes(b"of a crash")
    # A crash between the row and the file.
    with sqlite3.connect(tmp_path / "model-owner.db") as db:
        db.execute(
            "UPDATE sessions SET state = 'spent', key = NULL, seed = NULL WHERE session = ?",
            (made.sessions[0].session,),
        )
    store.sweep(PROGRAM)
    left = [p.name for p in (tmp_path / "material").iterdir()]
    assert left == [made.sessions[1].session.hex()]
    store.sweep(OTHER)  # another model version is served now
    assert store.stocked() == {}


@given(st.lists(st.binary(max_size=50), max_size=5), st.sampled_from([1, 7, 1 << 20]))
def test_material_comes_back_as_it_was_written(messages: list[bytes], record: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "RECORD", record)
        kept, key = material.MaterialFolder(Path(folder)), os.urandom(32)
        kept.write(b"s" * 16, key, messages)
        assert list(kept.take(b"s" * 16).messages(key)) == messages


@given(st.data())
def test_changed_material_is_never_read(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        kept, key = material.MaterialFolder(Path(folder)), os.urandom(32)
        kept.write(b"s" * 16, key, [b"abc", b"", b"defgh"])
        path = kept.path(b"s" * 16)
        raw = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        else:
            raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
        path.write_bytes(raw)
        with pytest.raises(StateError, match="damaged on disk"):
            list(kept.take(b"s" * 16).messages(key))


def test_material_of_one_session_is_not_that_of_another(tmp_path: Path) -> None:
    key = os.urandom(32)
    kept = material.MaterialFolder(tmp_path)
    kept.write(b"s" * 16, key, [b"abc"])
    kept.path(b"s" * 16).rename(kept.path(b"t" * 16))
    with pytest.raises(StateError):
        list(kept.take(b"t" * 16).messages(key))


def test_seeds_depend_on_all_that_a_batch_is_bound_to() -> None:
    plain = Binding(PROGRAM, OWNER, HOSPITAL, b"b" * 16, 1, Terms())
    others = [
        Binding(OTHER, OWNER, HOSPITAL, b"b" * 16, 1, Terms()),
        Binding(PROGRAM, Identity(Role.MODEL, "other"), HOSPITAL, b"b" * 16, 1, Terms()),
        Binding(PROGRAM, OWNER, Identity(Role.SITE, "clinic"), b"b" * 16, 1, Terms()),
        Binding(PROGRAM, OWNER, HOSPITAL, b"c" * 16, 1, Terms()),
        Binding(PROGRAM, OWNER, HOSPITAL, b"b" * 16, 2, Terms()),
        Binding(PROGRAM, OWNER, HOSPITAL, b"b" * 16, 1, Terms(noise=1.0)),
        Binding(PROGRAM, OWNER, HOSPITAL, b"b" * 16, 1, Terms(profile="wan")),
    ]
    seeds = {b.seed(bytes(32), b"s" * 16, DATA) for b in [plain, *others]}
    seeds |= {plain.seed(bytes(32), b"s" * 16, MODEL), plain.seed(bytes(32), b"t" * 16, DATA)}
    assert len(seeds) == 10


@given(st.integers(1, 1000))
def test_one_in_a_hundred_is_opened_and_as_many_as_asked_for_are_left(wanted: int) -> None:
    dealt = dealt_for(wanted)
    opened = opened_of(dealt)
    assert dealt - opened == wanted
    assert (opened == 0) if dealt < 20 else (opened * 100 >= dealt)


@given(st.binary(max_size=40), st.data())
def test_two_streams_are_compared_by_bytes_not_by_cuts(whole: bytes, data: st.DataObject) -> None:
    def pieces() -> list[bytes]:
        at = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
        return [whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True)]

    assert same(pieces(), pieces())
    assert not same(pieces(), [*pieces(), b"x"])
    if whole:
        assert not same(pieces(), [whole[:-1], bytes([whole[-1] ^ 1])])
