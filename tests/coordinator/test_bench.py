"""The fourth knob: who is not waited for any more, and how such a site comes back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator import reasons
from coordinator.agenda import Agenda
from coordinator.bench import Benched, bench
from coordinator.reasons import AWAY, BENCHED, NEXT
from coordinator.rows import AttemptRow, ModelRow
from primia.protocol.events import Loss
from primia.protocol.messages import RoundId, RoundKind
from primia.report.record import Absence
from primia.types import Digest, SiteId

SITES = tuple(SiteId(f"site-{i}") for i in range(5))
LATE = "late"


def attempt(
    number: int,
    absent: dict[SiteId, str],
    *,
    committed: bool = True,
    without: frozenset = frozenset(),
) -> AttemptRow:
    """One in which the sites in `without` were not invited."""
    inside = tuple(s for s in SITES if s not in absent and s not in without)
    return AttemptRow(
        round=RoundId(Digest("a" * 64), number, number, RoundKind.TRAIN, Digest("b" * 64)),
        opened_at=0.0,
        phase="done",
        waiting_for=(),
        closed_at=1.0,
        outcome="committed" if committed else "aborted",
        reason="",
        update_norm=None,
        votes=None,
        returned_to=None,
        contributors=inside if committed else (),
        survivors=(),
        charged=(),
        absent=tuple(Absence(s, "training", f"it was {c}", c) for s, c in absent.items()),
    )


def benched(
    attempts: list[AttemptRow],
    *,
    present: tuple[SiteId, ...] = SITES,
    quorum: int = 3,
    readmitted: dict[SiteId, int] | None = None,
) -> tuple[Benched, ...]:
    return bench(
        attempts, SITES, present, quorum=quorum, most_missed=3, readmitted=readmitted or {}
    )


ONE = SITES[0]
MISSES = [attempt(n, {ONE: LATE}) for n in (1, 2, 3)]


def test_a_site_that_is_late_in_three_rounds_in_a_row_is_benched_and_named() -> None:
    assert not benched(MISSES[:2])
    assert benched(MISSES) == (Benched(ONE, (3, 2, 1), was_away=False),)


def test_one_round_that_it_is_in_starts_the_count_again() -> None:
    assert not benched([*MISSES[:2], attempt(3, {}), attempt(4, {ONE: LATE})])


def test_aborted_attempts_and_rounds_it_was_not_invited_to_do_not_count() -> None:
    aborted = [attempt(n, {ONE: LATE}, committed=False) for n in (3, 4, 5)]
    assert not benched([*MISSES[:2], *aborted])
    uninvited = attempt(4, {}, without=frozenset({ONE}))
    assert benched([*MISSES, uninvited]), "and it stays on the bench meanwhile"


def test_a_site_that_was_away_is_back_as_soon_as_its_worker_is() -> None:
    away = [attempt(n, {ONE: AWAY}) for n in (1, 2, 3)]
    assert benched(away, present=SITES[1:])[0].was_away
    assert not benched(away)
    assert benched([*away[:2], attempt(3, {ONE: LATE})]), "late once: a person decides"


def test_a_readmitted_site_starts_anew() -> None:
    assert not benched(MISSES, readmitted={ONE: 3})
    more = [attempt(n, {ONE: LATE}) for n in (4, 5, 6)]
    assert benched([*MISSES, *more], readmitted={ONE: 3})


@settings(deadline=None)
@given(
    history=st.lists(st.dictionaries(st.sampled_from(SITES), st.sampled_from([LATE, AWAY]))),
    here=st.sets(st.sampled_from(SITES)),
    quorum=st.integers(3, 5),
)
def test_the_bench_never_takes_a_round_below_its_quorum_nor_a_site_that_was_in_the_last_sum(
    history: list[dict[SiteId, str]], here: set[SiteId], quorum: int
) -> None:
    attempts = [attempt(n, absent) for n, absent in enumerate(history, start=1)]
    found = benched(attempts, present=tuple(here), quorum=quorum)
    assert len(SITES) - len(found) >= quorum
    for one in found:
        assert one.site not in attempts[-1].contributors
        assert not (one.was_away and one.site in here)
    agenda = Agenda(
        rounds=len(history) + 1,
        shared_noise=False,
        attempts=attempts,
        model=ModelRow(0, Digest("c" * 64), Digest("d" * 64)),
        invited=frozenset(SITES),
        present=frozenset(here),
        benched=frozenset(b.site for b in found),
    )
    assert agenda.invitees == set(SITES) - {b.site for b in found}


def test_every_code_has_a_next_step() -> None:
    ours = {v for k, v in vars(reasons).items() if k.isupper() and isinstance(v, str)}
    assert ours | {loss.value for loss in Loss} | {""} == set(NEXT)
    assert all(NEXT.values())


def test_a_benched_site_is_named_in_each_round_and_that_is_no_further_miss() -> None:
    on_bench = [attempt(n, {ONE: BENCHED}) for n in (4, 5)]
    assert benched([*MISSES, *on_bench])[0].missed == (3, 2, 1)
