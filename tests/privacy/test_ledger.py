import json
import math
import sqlite3
import subprocess
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primia.errors import BudgetExhausted, StateError
from primia.privacy import DistributedDpSgd, DpSgd, Head, Ledger, epsilon
from primia.privacy.chain import GENESIS
from primia.types import sha256

PLAN = sha256(b"plan")
ROUND = DpSgd(0.36, 2.0, 10)
DELTA = 1e-4


def charge(ledger, number=1, *, update=None, **changes):
    wanted = {
        "plan": PLAN,
        "round_number": number,
        "attempt": number,
        "mechanism": ROUND,
        "update": update or sha256(b"update %d" % number),
        "cap_epsilon": 8.0,
        "cap_delta": DELTA,
        "time": "2025-01-01T00:00:00Z",
    }
    return ledger.charge(**(wanted | changes))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger(path, create=True) as ledger:
        yield ledger


def test_spent_is_the_epsilon_of_all_rounds_together(ledger):
    assert ledger.spent(DELTA) == 0
    for number in (1, 2, 3):
        charge(ledger, number)
    assert ledger.spent(DELTA) == epsilon([DpSgd(0.36, 2.0, 30)], DELTA)
    assert ledger.spent(1e-6) > ledger.spent(DELTA)


def test_the_same_update_sent_again_is_charged_once(ledger):
    first = charge(ledger, 1, attempt=1)
    assert charge(ledger, 1, attempt=2) == first
    assert len(ledger.rows()) == 1


def test_the_same_round_trained_anew_is_charged_again(ledger):
    charge(ledger, 1, update=sha256(b"first noise"))
    charge(ledger, 1, update=sha256(b"second noise"))
    assert ledger.spent(DELTA) == epsilon([DpSgd(0.36, 2.0, 20)], DELTA)


def test_another_study_draws_on_the_same_budget(ledger):
    charge(ledger, 1)
    charge(ledger, 1, plan=sha256(b"another plan"), mechanism=DpSgd(0.1, 1.0, 50))
    assert ledger.spent(DELTA) == epsilon([ROUND, DpSgd(0.1, 1.0, 50)], DELTA)


def test_a_charge_past_the_cap_is_refused_and_leaves_no_row(ledger):
    charge(ledger, 1)
    before = ledger.head()
    cap = ledger.spent(DELTA) * 1.1
    with pytest.raises(BudgetExhausted, match=r"spent.*would make it.*cap.*stop here"):
        charge(ledger, 2, cap_epsilon=cap)
    assert ledger.head() == before


def test_an_update_already_charged_may_be_sent_again_though_the_budget_is_spent(ledger):
    first = charge(ledger, 1)
    assert charge(ledger, 1, cap_epsilon=ledger.spent(DELTA) / 2) == first


def test_the_cap_is_judged_at_the_delta_of_the_cap_not_of_the_rows(ledger):
    charge(ledger, 1)
    cap = epsilon([DpSgd(0.36, 2.0, 20)], DELTA)
    with pytest.raises(BudgetExhausted):
        charge(ledger, 2, cap_epsilon=cap, cap_delta=1e-6)
    charge(ledger, 2, cap_epsilon=cap)


def test_a_cap_that_is_not_a_number_refuses(ledger):
    with pytest.raises(BudgetExhausted):
        charge(ledger, 1, cap_epsilon=math.nan)


def test_a_release_without_privacy_is_infinite_and_needs_an_infinite_cap(ledger):
    with pytest.raises(BudgetExhausted, match="inf"):
        charge(ledger, 1, mechanism=None, cap_epsilon=1e9)
    charge(ledger, 1, mechanism=None, cap_epsilon=math.inf)
    assert ledger.spent(DELTA) == math.inf
    with pytest.raises(BudgetExhausted):
        charge(ledger, 2)


@given(
    releases=st.lists(
        st.tuples(st.sampled_from([0.01, 1]), st.sampled_from([4, 8.5]), st.integers(1, 20)),
        max_size=3,
    )
)
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_rows_come_back_as_they_were_charged_and_the_chain_holds(tmp_path_factory, releases):
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    with Ledger(path, create=True) as ledger:
        for number, (rate, noise, steps) in enumerate(releases, start=1):
            charge(ledger, number, mechanism=DpSgd(rate, noise, steps), cap_epsilon=1e6)
    with Ledger(path) as ledger:
        rows = ledger.rows()
        assert [row.mechanism for row in rows] == [DpSgd(*r) for r in releases]
        assert ledger.verify() == ledger.head()
        assert [row.previous for row in rows] == [GENESIS, *(row.digest for row in rows)][:-1]


def _tamper(path, *statements):
    db = sqlite3.connect(path)
    db.execute("DROP TRIGGER ledger_keeps_rows")
    db.execute("DROP TRIGGER ledger_keeps_values")
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET noise_multiplier = 9.0 WHERE number = 2",
        "UPDATE ledger SET steps = 1 WHERE number = 2",
        "UPDATE ledger SET noise_multiplier = NULL WHERE number = 2",
        "UPDATE ledger SET time = 'later' WHERE number = 2",
        "UPDATE ledger SET digest = previous WHERE number = 2",
        "DELETE FROM ledger WHERE number = 2",
        "DELETE FROM ledger WHERE number = 1",
    ],
)
def test_an_edited_or_missing_row_is_found_and_stops_further_charges(ledger, path, statement):
    for number in (1, 2, 3):
        charge(ledger, number)
    _tamper(path, statement)
    with pytest.raises(StateError, match=r"row \d.*restore"):
        ledger.verify()
    with pytest.raises(StateError):
        charge(ledger, 4)


def test_a_ledger_put_back_to_an_older_state_is_found_with_the_head_kept_elsewhere(ledger, path):
    charge(ledger, 1)
    old = ledger.head()
    charge(ledger, 2)
    head = ledger.head()
    _tamper(path, "DELETE FROM ledger WHERE number = 2")
    assert ledger.verify() == old  # the chain alone cannot know
    with pytest.raises(StateError, match="older"):
        ledger.verify(at_least=head)
    charge(ledger, 2, update=sha256(b"other"))
    with pytest.raises(StateError, match="older"):
        ledger.verify(at_least=head)
    assert ledger.verify(at_least=old).rows == 2
    assert ledger.verify(at_least=Head(0, GENESIS)).rows == 2


def test_rows_cannot_be_changed_or_removed_by_accident(ledger, path):
    charge(ledger, 1)
    with sqlite3.connect(path) as db:
        for statement in ("DELETE FROM ledger", "UPDATE ledger SET steps = 1"):
            with pytest.raises(sqlite3.DatabaseError, match="append-only"):
                db.execute(statement)
    db.close()


def test_a_missing_ledger_is_refused_instead_of_being_a_fresh_budget(path):
    with pytest.raises(StateError, match=r"missing.*backup"):
        Ledger(path)
    assert not path.exists()


def test_opening_with_create_keeps_what_is_there(path):
    with Ledger(path, create=True) as ledger:
        charge(ledger, 1)
    with Ledger(path, create=True) as ledger:
        assert len(ledger.rows()) == 1


@pytest.mark.parametrize("content", [b"", b"this is not a database, but it is long enough" * 9])
def test_a_file_that_is_no_ledger_is_refused_with_one_line(path, content):
    path.write_bytes(content)
    with pytest.raises(StateError, match="ledger") as caught:
        Ledger(path)
    assert "\n" not in str(caught.value)


def test_a_charge_survives_a_process_that_dies_right_after_it(path):
    code = f"""
import os, pathlib
from primia.privacy import DpSgd, Ledger
ledger = Ledger(pathlib.Path({str(path)!r}), create=True)
ledger.charge(plan="p", round_number=1, attempt=1, mechanism=DpSgd(0.1, 1.0, 1), update="u",
              cap_epsilon=8.0, cap_delta=1e-4, time="t")
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with Ledger(path) as ledger:
        assert [row.update for row in ledger.rows()] == ["u"]
        ledger.verify()


def test_two_writers_cannot_both_spend_the_last_of_the_budget(path):
    Ledger(path, create=True).close()
    cap = epsilon([DpSgd(0.36, 2.0, 30)], DELTA)
    refused = []

    def spend(first):
        with Ledger(path) as ledger:
            for number in range(first, first + 3):
                try:
                    charge(ledger, number, cap_epsilon=cap)
                except BudgetExhausted:
                    refused.append(number)

    threads = [threading.Thread(target=spend, args=(first,)) for first in (1, 101)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Ledger(path) as ledger:
        assert len(ledger.rows()) == 3
        assert ledger.verify().rows == 3
    assert len(refused) == 3


SHARED = DistributedDpSgd(0.36, 2.0, 1)


def test_the_kind_of_noise_is_kept_and_priced(path):
    with Ledger(path, create=True) as ledger:
        charge(ledger, 1)
        charge(ledger, 2, mechanism=SHARED)
    with Ledger(path) as ledger:
        assert [row.mechanism for row in ledger.rows()] == [ROUND, SHARED]
        assert ledger.spent(DELTA) == epsilon([ROUND, SHARED], DELTA)
        assert ledger.verify() == ledger.head()


@pytest.mark.parametrize("kind", ["NULL", "'other'"])
def test_a_row_made_cheaper_by_another_kind_is_found(ledger, path, kind):
    charge(ledger, 1, mechanism=SHARED)
    _tamper(path, f"UPDATE ledger SET kind = {kind} WHERE number = 1")
    with pytest.raises(StateError, match="row 1"):
        ledger.verify()


# As version 1 wrote it: two rows, with their digests.
VERSION_1 = """
CREATE TABLE ledger (
    number INTEGER PRIMARY KEY, plan TEXT NOT NULL, round INTEGER NOT NULL,
    attempt INTEGER NOT NULL, sampling_rate REAL, noise_multiplier REAL, steps INTEGER,
    delta REAL NOT NULL, update_digest TEXT NOT NULL, time TEXT NOT NULL,
    previous TEXT NOT NULL, digest TEXT NOT NULL, UNIQUE (plan, round, update_digest)
);
CREATE TRIGGER ledger_keeps_rows BEFORE DELETE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_keeps_values BEFORE UPDATE ON ledger
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
PRAGMA user_version = 1;
"""
VERSION_1_ROWS = [
    (1, "p", 1, 1, 0.36, 2.0, 10, 1e-4, "u1", "t"),
    (2, "p", 2, 2, None, None, None, 1e-4, "u2", "t"),
]


def test_a_ledger_of_version_1_is_taken_over_and_its_digests_still_hold(path):
    db = sqlite3.connect(path)
    db.executescript(VERSION_1)
    previous = GENESIS
    for row in VERSION_1_ROWS:
        content = json.dumps([*row, previous], separators=(",", ":"))
        digest = sha256(b"primia ledger v1\n" + content.encode())
        db.execute(f"INSERT INTO ledger VALUES ({', '.join('?' * 12)})", (*row, previous, digest))
        previous = digest
    db.commit()
    db.close()
    for _ in range(2):  # taken over once, opened again
        with Ledger(path) as ledger:
            assert ledger.verify() == Head(2, previous)
            assert [row.mechanism for row in ledger.rows()] == [ROUND, None]
    with Ledger(path) as ledger:
        charge(ledger, 3, mechanism=SHARED, cap_epsilon=math.inf)
        assert ledger.verify(at_least=Head(2, previous)).rows == 3


def test_a_ledger_of_a_later_version_is_refused(path):
    Ledger(path, create=True).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 4")
    db.close()
    with pytest.raises(StateError, match="found 4"):
        Ledger(path)
