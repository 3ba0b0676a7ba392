"""The three roles together: what is answered, and what each way to fail says."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from primia.errors import (
    BudgetExhausted,
    IdentityError,
    PeerError,
    StateError,
    TooManyCalls,
    Unreachable,
)
from primia.identity.certificate import fingerprint
from primia.infer import home, overview
from primia.infer.data_owner import DataOwner
from primia.infer.home import Role
from primia.infer.model_store import ModelStore
from primia.types import SiteId
from primia.wire.inference_handler import Terms
from tests.inference_service import toy
from tests.inference_service.conftest import World

HOSPITAL = SiteId("hospital")


def ask(owner: DataOwner, count: int = 1, batch: int = 1) -> list[int]:
    films = toy.films(count)
    found = [int(v) for answer in owner.ask(films, batch) for v in answer]  # type: ignore[attr-defined]
    assert found == toy.expected(films)
    return found


def stock_of(world: World) -> int:
    with world.owner() as owner:
        return sum(owner.store.stocked().values())


def test_a_data_owner_asks_and_a_batch_is_dealt_on_demand(world: World) -> None:
    with world.owner() as owner:
        ask(owner, 3, batch=3)
        assert owner.store.stocked() == {}
        assert owner.costs.online.sent == 3 * 3 * 8 * toy.SIDE**2


def test_stocked_sessions_need_no_dealer(world: World) -> None:
    with world.owner() as owner:
        assert owner.stock(4) == 4
    world.stop("dealer")
    with world.owner() as owner:
        ask(owner, 4, batch=4)  # no session for four films: one film after the other


def test_a_batch_of_twenty_or_more_is_dealt_with_some_to_open_and_these_are_never_used(
    world: World,
) -> None:
    with world.owner() as owner:
        assert owner.stock(20) == 20
        assert owner.store.stocked() == {(world.program.digest, 1): 20}
    line = world.book.audit.last("batch_checked")
    assert (line.fields["sessions"], line.fields["opened"]) == (20, 1)
    assert len(list((world.root / "model" / "material").iterdir())) == 20


def test_a_batch_with_one_wrong_bit_in_an_opened_session_is_discarded_whole(world: World) -> None:
    world.engine.corrupt = True
    dealt: list[int] = []

    def heal(*_: object) -> None:
        dealt.append(1)

    real = world.engine.deal

    def deal(*args: object) -> object:
        # What the dealer sends is wrong, what the model owner deals again for the check is right.
        world.engine.corrupt = len(dealt) < 21
        heal()
        return list(real(*args))  # type: ignore[arg-type]

    world.engine.deal = deal  # type: ignore[assignment, method-assign]
    with world.owner() as owner:
        with pytest.raises(PeerError, match=r"does not hold what it should.*dealer"):
            owner.stock(20)
        assert owner.store.stocked() == {}
    assert world.book.stocked() == {}
    assert world.book.audit.last("batch_refused") is not None
    assert not list((world.root / "model" / "material").iterdir())


def test_without_dealer_and_material_the_line_names_both(world: World) -> None:
    world.stop("dealer")
    with (
        world.owner() as owner,
        pytest.raises(Unreachable, match=r"no session .* is stocked here, .*dealer running"),
    ):
        ask(owner)


def test_an_unknown_program_hash_is_refused_by_name(world: World) -> None:
    with world.owner() as owner:
        owner.stock(1)
        world.program = toy.program()  # prepared anew while the data owner is connected
        world.restart_model()
        with pytest.raises(PeerError, match=r"program .* is not served here.* ask again"):
            ask(owner)
    with world.owner() as owner:  # and asking again works, with new sessions
        assert owner.store.stocked() == {}
        ask(owner)


def test_other_weights_under_the_version_of_before_are_not_served(world: World) -> None:
    world.weights = toy.weights(bias=8)
    world.stop("model")
    with pytest.raises(StateError, match="prepare the model again"):
        world.start_model()


def test_sessions_dealt_on_other_terms_than_hold_now_are_not_used(world: World) -> None:
    with world.owner() as owner:
        owner.stock(2)
    world.terms = Terms(noise=1.0)
    world.restart_model()
    assert world.book.stocked() == {}
    with world.owner() as owner:
        assert owner.store.stocked() == {}
        ask(owner)
        assert owner.terms.noise == 1.0


def test_every_model_version_has_a_mask_of_its_own(world: World) -> None:
    seeds = {
        world.book.mask_seed(p.digest, p.model_version, toy.weights()["head.bias"].tobytes().hex())
        for p in (toy.program(), toy.program())
    }
    assert len(seeds) == 2


def test_a_data_owner_put_back_to_an_older_copy_is_refused_its_used_sessions(
    world: World, tmp_path: Path
) -> None:
    with world.owner() as owner:
        owner.stock(1)
    shutil.copytree(world.root / "hospital", tmp_path / "copy")
    with world.owner() as owner:
        ask(owner)
    shutil.rmtree(world.root / "hospital")
    (tmp_path / "copy").rename(world.root / "hospital")
    with world.owner() as owner:
        with pytest.raises(PeerError, match=r"used before and is refused.* then ask again"):
            ask(owner)
        ask(owner)


def test_a_model_owner_put_back_to_an_older_copy_is_never_asked_a_used_session(
    world: World, tmp_path: Path
) -> None:
    with world.owner() as owner:
        owner.stock(1)
    world.stop("model")
    shutil.copytree(world.root / "model", tmp_path / "copy")
    world.start_model()
    with world.owner() as owner:
        ask(owner)
    world.stop("model")
    shutil.rmtree(world.root / "model")
    (tmp_path / "copy").rename(world.root / "model")
    world.start_model()
    with world.owner() as owner:
        assert owner.store.stocked() == {}
        # It would count the next session as it counted one that was here before.
        with world.owner() as second:
            second.stock(1)
        ask(owner)


def test_a_model_owner_older_than_a_batch_is_found_out_when_it_counts_again(
    world: World, tmp_path: Path
) -> None:
    world.stop("model")
    shutil.copytree(world.root / "model", tmp_path / "copy")
    world.start_model()
    with world.owner() as owner:
        owner.stock(2)
    world.stop("model")
    shutil.rmtree(world.root / "model")
    (tmp_path / "copy").rename(world.root / "model")
    world.start_model()
    with world.owner() as owner:
        with pytest.raises(PeerError, match="put back to an older copy"):
            owner.stock(1)
        with pytest.raises(PeerError, match="not known here"):
            ask(owner)


def test_two_asks_at_once_use_two_sessions(world: World) -> None:
    with world.owner() as owner:
        owner.stock(2)

    def one(_: int) -> list[int]:
        with world.owner() as owner:
            return ask(owner)

    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(one, range(2)))) == 2
    assert stock_of(world) == 0
    assert world.book.stocked() == {}


def test_two_first_asks_at_once_both_fetch_what_they_need(world: World) -> None:
    def one(_: int) -> list[int]:
        with world.owner() as owner:
            return ask(owner)

    with ThreadPoolExecutor(3) as pool:
        assert len(list(pool.map(one, range(3)))) == 3
    assert len(list((world.root / "hospital" / "given").iterdir())) == 1


def test_a_query_budget_ends_and_outlives_a_restart(bare: World) -> None:
    bare.enrol("hospital", films=2)
    with bare.owner() as owner:
        ask(owner)
    bare.restart_model()
    with bare.owner() as owner:
        owner.stock(2)
        with pytest.raises(
            BudgetExhausted, match=r"2 films to ask about, .* has room for 1; ask about fewer"
        ):
            ask(owner, 2)
        ask(owner)
        owner._description = owner._description.__class__(
            **{**vars(owner._description), "films_left": 9}
        )  # a data owner that does not look
        with pytest.raises(BudgetExhausted, match=r"budget of hospital is spent: 2 of 2"):
            ask(owner)
    assert overview.budget(bare.root / "model", HOSPITAL, films=None, per_day=None)["asked"] == 2
    overview.budget(bare.root / "model", HOSPITAL, films=5, per_day=None)
    with bare.owner() as owner:
        ask(owner)


def test_a_days_rate_ends_and_comes_back(bare: World) -> None:
    bare.enrol("hospital", per_day=1)
    with bare.owner() as owner:
        owner.stock(3)
        ask(owner)
        with pytest.raises(TooManyCalls, match=r"1 film in the last 24 hours"):
            ask(owner)
    bare.book._clock = lambda: time.time() + 86401
    with bare.owner() as owner:
        ask(owner)


def test_queries_are_charged_on_the_audit_log_before_they_are_answered(world: World) -> None:
    lines: list[int] = []
    log = ModelStore(world.root / "model")
    world.engine.before_step = lambda party, step: (
        lines.append(log.budget(HOSPITAL).asked) if (party, step) == ("model", 0) else None
    )
    with world.owner() as owner:
        ask(owner, 2, batch=2)
    assert lines == [2]
    assert log.audit.last("query_charged").fields["queries"] == 2  # type: ignore[union-attr]
    log.close()


def test_a_struck_data_owner_is_refused_on_its_open_channel_too(world: World) -> None:
    with world.owner() as owner:
        owner.stock(1)
        overview.strike(world.root / "model", HOSPITAL)
        with pytest.raises(IdentityError, match="struck"):
            ask(owner)


def test_a_data_owner_of_another_model_owner_does_not_get_in(world: World, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = World(tmp_path / "b")
    other.start_model()
    other.enrol("hospital")
    other.stop("model")
    from primia.infer.data_store import DataStore

    store = DataStore(tmp_path / "b" / "hospital")
    store.note("address", f"127.0.0.1:{world.model_port}")
    store.close()
    with pytest.raises(IdentityError, match=r"foreign authority|newer authority"):
        other.owner()


def test_another_dealer_than_the_pinned_one_is_not_taken(world: World) -> None:
    with world.owner() as owner:
        owner.stock(1)
    overview.strike(world.root / "model", SiteId("dealer"))
    world.stop("dealer")
    shutil.move(world.root / "dealer", world.root / "dealer-of-before")
    world.enrol("dealer", "dealer")
    world.start_dealer()
    with pytest.raises(IdentityError, match=r"not the one pinned here.*telephone.*trust"):
        world.owner()
    mark = fingerprint(home.load(world.root / "dealer", Role.DEALER).certificate)
    overview.trust(world.root / "hospital", mark)
    with world.owner() as owner:
        assert owner.store.stocked() == {}  # what the one before dealt is not used
        ask(owner)


def test_the_dealers_own_fingerprint_can_be_given_when_enrolling(bare: World) -> None:
    made = home.invite(bare.root / "model", "data-owner", HOSPITAL, f"127.0.0.1:{bare.model_port}")
    home.enrol(bare.root / "hospital", made.invitation.code(), None, dealer=":".join(["ab"] * 32))
    with pytest.raises(IdentityError, match="not the one pinned"):
        bare.owner()


def test_a_party_that_dies_in_mid_prediction_leaves_no_answer_and_no_session(world: World) -> None:
    class Died(Exception):
        pass

    def die(party: str, step: int) -> None:
        if (party, step) == ("model", 1):
            raise Died

    with world.owner() as owner:
        owner.stock(1)
        world.engine.before_step = die
        with pytest.raises(Unreachable, match="fault of its own"):
            ask(owner)
        assert owner.store.stocked() == {}
    assert world.book.stocked() == {}
    assert world.book.budget(HOSPITAL).asked == 1  # charged all the same


def test_a_session_that_the_model_owner_never_heard_of_is_let_go_of_later(
    world: World,
) -> None:
    with world.owner() as owner:
        owner.stock(2)
        owner.store.begin(world.program.digest, 1)  # and then this process dies
        ask(owner)
        assert world.book.stocked() == {HOSPITAL: 1}  # it might still be on its way
        owner.stock(1)
        owner.store._clock = lambda: time.time() + 901
        ask(owner)
        assert world.book.stocked() == {}
    assert not list((world.root / "model" / "material").iterdir())


@pytest.mark.parametrize("whose", ["model", "hospital"])
def test_a_flipped_bit_in_stored_material_is_found(world: World, whose: str) -> None:
    with world.owner() as owner:
        owner.stock(1)
        (file,) = (world.root / whose / "material").iterdir()
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
        # The model owner's own fault is told there, and here by an incident number.
        told = "flipped bit" if whose == "hospital" else "fault of its own"
        with pytest.raises((StateError, Unreachable), match=told):
            ask(owner)


def test_masked_weights_are_fetched_once_and_checked_each_time(world: World) -> None:
    with world.owner() as owner:
        ask(owner)
        first = owner.costs.weights.received
    with world.owner() as owner:
        ask(owner)
        assert (first > 0, owner.costs.weights.received) == (True, 0)
    (file,) = (world.root / "hospital" / "given").iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with world.owner() as owner, pytest.raises(StateError, match="damaged on disk"):
        ask(owner)
    with world.owner() as owner:
        ask(owner)


def test_predictions_wait_for_their_turn(world: World) -> None:
    running, most, lock = [0], [0], threading.Lock()

    def count(party: str, step: int) -> None:
        if party != "model":
            return
        with lock:
            running[0] += {0: 1, toy.STEPS - 1: -1}.get(step, 0)
            most[0] = max(most[0], running[0])

    with world.owner() as owner:
        owner.stock(5)
    world.engine.before_step = count

    def one(_: int) -> None:
        with world.owner() as owner:
            ask(owner)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(one, range(5)))
    assert most[0] <= 2
