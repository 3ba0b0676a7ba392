"""Who is charged for what: overlapping cohorts against a plain reference, and attacks on names."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primia.errors import BudgetExhausted, StateError
from primia.privacy import DpSgd, Ledger, Members, epsilon, ledger
from primia.types import sha256

DELTA = 1e-4
ROUND = DpSgd(0.36, 2.0, 10)


def fingerprint(name):
    return bytes.fromhex(sha256(str(name).encode())[:32])


def members(patients, *, key="k", films=None):
    """A cohort: patients by name, each with one film of his own unless `films` says otherwise."""
    given_films = films or {}
    return Members(
        key,
        {
            fingerprint(p): frozenset(
                fingerprint(f"film {f}") for f in given_films.get(p, [f"of {p}"])
            )
            for p in patients
        },
    )


def charge(ledger, number, cohort, *, plan=b"plan", mechanism=ROUND, cap=1e6):
    return ledger.charge(
        plan=sha256(plan),
        round_number=number,
        attempt=number,
        mechanism=mechanism,
        update=sha256(plan + b"%d" % number),
        cap_epsilon=cap,
        cap_delta=DELTA,
        time="2026-01-01T00:00:00+00:00",
        members=cohort,
        study=plan.decode(),
        site="north",
    )


@pytest.fixture
def book(tmp_path):
    with Ledger(tmp_path / "ledger.db", create=True) as made:
        yield made


def test_patients_of_other_cohorts_are_not_charged(book):
    charge(book, 1, members("ab"))
    charge(book, 2, members("cd"), plan=b"other")
    assert book.spent(DELTA) == epsilon([ROUND], DELTA)
    assert book.spent(DELTA, members("ab")) == epsilon([ROUND], DELTA)
    assert book.spent(DELTA, members("xy")) == 0


def test_the_patient_who_was_in_both_studies_decides(book):
    charge(book, 1, members("ab"))
    cap = epsilon([DpSgd(0.36, 2.0, 15)], DELTA)
    with pytest.raises(BudgetExhausted):
        charge(book, 1, members("bcdefgh"), plan=b"other", cap=cap)
    charge(book, 1, members("cdefgh"), plan=b"other", cap=cap)
    assert len(book.rows()) == 2


def test_a_cohort_under_another_name_is_charged_on_the_patients_it_shares(book):
    charge(book, 1, members("abc"))
    renamed = members("bcd")  # another plan, study and manifest
    assert book.spent(DELTA, renamed) == epsilon([ROUND], DELTA)
    assert book.overlap(renamed).known == 2


def test_a_patient_under_another_id_is_found_by_a_film(book):
    charge(book, 1, members("ab", films={"a": [1, 2]}))
    other_id = members("xy", films={"x": [2, 3]})
    assert book.overlap(other_id).renamed == 1
    assert book.spent(DELTA, other_id) == epsilon([ROUND], DELTA)
    charge(book, 2, other_id, plan=b"other")
    # and through that film to a third id, which shares no film with the first one
    third = members("z", films={"z": [3]})
    assert book.spent(DELTA, third) == epsilon([DpSgd(0.36, 2.0, 20)], DELTA)


def test_rows_of_before_cohorts_count_for_everybody(book):
    charge(book, 1, None)
    charge(book, 2, members("ab"), plan=b"other")
    assert book.spent(DELTA, members("ab")) == epsilon([DpSgd(0.36, 2.0, 20)], DELTA)
    assert book.spent(DELTA, members("new")) == epsilon([ROUND], DELTA)


def test_a_release_without_privacy_has_no_bound_for_those_it_was_made_of(book):
    charge(book, 1, members("ab"), mechanism=None, cap=math.inf)
    assert book.spent(DELTA, members("bc")) == math.inf
    assert book.spent(DELTA, members("cd")) == 0
    with pytest.raises(BudgetExhausted):
        charge(book, 2, members("bc"))


def test_fingerprints_of_another_key_are_refused_because_nobody_could_be_found_again(book):
    charge(book, 1, members("ab"))
    foreign = members("ab", key="other")
    for use in (
        lambda: charge(book, 2, foreign),
        lambda: book.afford(ROUND, 8.0, DELTA, foreign),
        lambda: book.overlap(foreign),
        lambda: book.withdraw(fingerprint("a"), "other", "t"),
    ):
        with pytest.raises(StateError, match="another key"):
            use()
    assert len(book.entries()) == 1


def test_a_withdrawn_patient_stays_charged_and_is_known_by_every_id(book, tmp_path):
    charge(book, 1, members("ab", films={"a": [1, 2]}))
    charge(book, 2, members("x", films={"x": [2, 3]}), plan=b"other")
    assert book.withdraw(fingerprint("x"), "k", "2026-02-01T00:00:00+00:00")
    assert not book.withdraw(fingerprint("x"), "k", "later")
    patients, films = book.withdrawn()
    assert patients == {fingerprint("a"), fingerprint("x")}
    assert films == {fingerprint(f"film {n}") for n in (1, 2, 3)}
    assert book.spent(DELTA, members("a")) == epsilon([DpSgd(0.36, 2.0, 20)], DELTA)
    assert [row.round for row in book.rows()] == [1, 2]  # a withdrawal is no release
    assert book.verify().rows == 3
    assert book.withdrawals() == 1


def test_somebody_never_trained_on_can_be_withdrawn(book):
    assert book.withdraw(fingerprint("n"), "k", "t")
    assert book.withdrawn() == ({fingerprint("n")}, frozenset())


COHORTS = st.lists(
    st.tuples(
        # patients, each with some films; two patients may share one, now or in another cohort
        st.dictionaries(st.integers(0, 5), st.sets(st.integers(0, 7), max_size=3), min_size=1),
        st.integers(1, 9),  # steps
    ),
    max_size=5,
)


def _reference(history, wanted):
    """The most that any person of `wanted` was part of, by following shared films about."""
    most = 0
    for start in wanted:
        ids, films = {start}, set(wanted[start])
        while True:
            more_ids = {
                p
                for cohort in [*(c for c, _ in history), wanted]
                for p, own in cohort.items()
                if p in ids or own & films
            }
            more_films = {
                f
                for cohort in [*(c for c, _ in history), wanted]
                for p in more_ids & cohort.keys()
                for f in cohort[p]
            }
            if more_ids <= ids and more_films <= films:
                break
            ids, films = ids | more_ids, films | more_films
        most = max(most, sum(steps for cohort, steps in history if ids & cohort.keys()))
    return most


@given(history=COHORTS, wanted=COHORTS.filter(bool))
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_filter_charges_what_a_plain_reference_does(
    tmp_path_factory, monkeypatch, history, wanted
):
    # ε that adds up by steps: then sums can be compared exactly.
    monkeypatch.setattr(ledger, "epsilon", lambda found, _: float(sum(m.steps for m in found)))

    def cohort(patients):
        return Members(
            "k",
            {
                fingerprint(p): frozenset(fingerprint(f"film {f}") for f in films)
                for p, films in patients.items()
            },
        )

    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    with Ledger(path, create=True) as book:
        for number, (patients, steps) in enumerate(history):
            charge(book, number, cohort(patients), mechanism=DpSgd(0.1, 1.0, steps))
    with Ledger(path) as book:
        patients, steps = wanted[0]
        expected = _reference(history, patients)
        assert book.spent(DELTA, cohort(patients)) == expected
        with pytest.raises(BudgetExhausted):
            charge(
                book, 99, cohort(patients), mechanism=DpSgd(0.1, 1.0, steps),
                cap=expected + steps - 0.5,
            )  # fmt: skip
        charge(book, 99, cohort(patients), mechanism=DpSgd(0.1, 1.0, steps), cap=expected + steps)
        assert book.spent(DELTA, cohort(patients)) == expected + steps


@given(
    films=st.dictionaries(
        st.binary(min_size=16, max_size=16),
        st.frozensets(st.binary(min_size=16, max_size=16), max_size=4),
        max_size=6,
    )
)
def test_a_cohort_reads_back_from_its_bytes(films):
    made = Members("ab12", films)
    again = Members.from_bytes(made.to_bytes())
    assert (again.key, dict(again.films)) == ("ab12", films)
    assert again.digest == made.digest


@pytest.mark.parametrize("cut", [1, 16, 20, 40])
def test_a_cohort_cut_short_or_reordered_is_refused(cut):
    data = members("abc").to_bytes()
    with pytest.raises(ValueError, match=r"canonical|16 bytes"):
        Members.from_bytes(data[:-cut])
    with pytest.raises(ValueError, match="canonical"):
        Members.from_bytes(data + data[-36:])
