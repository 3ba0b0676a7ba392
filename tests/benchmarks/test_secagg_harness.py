import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.secagg import curve, memory, run, vectors
from benchmarks.secagg.cohort import Cohort
from benchmarks.secagg.peers import Peers
from benchmarks.secagg.report import chart, kept, table
from benchmarks.secagg.rounds import Game
from benchmarks.secagg.timing import Timing, in_turns
from benchmarks.secagg.transport import WAYS, Receiver
from primia.secagg.layout import Layout, Vector

SMALL = Layout((Vector("update", 50, 24), Vector("weight", 1)))


def test_tasks_run_in_turns_and_warming_up_does_not_count():
    order = []
    found = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b"] * 3
    assert len(found["a"].seconds) == 2


def test_a_task_of_another_process_reports_its_own_seconds():
    found = in_turns({"there": lambda: 7.0}, repeats=3)
    assert found["there"] == Timing((7.0, 7.0, 7.0))


def test_a_speed_is_the_inverse_of_a_time():
    slow, fast = Timing((4.0, 5.0)), Timing((2.0, 2.0))
    assert run.timed("s", "n", slow, fast, "u")["ratio"] == 2
    assert run.timed("s", "n", slow, fast, "u", inverse=True)["ratio"] == 0.5


@pytest.mark.parametrize(
    ("bar", "ratio", "holds"),
    [
        ({"at_most": 1.5}, 1.5, True),
        ({"at_most": 1.5}, 1.6, False),
        ({"at_least": 0.7}, 0.7, True),
        ({"at_least": 0.7}, 0.6, False),
        ({"at_most": None}, 99, True),
    ],
)
def test_a_bar_is_a_bound_from_its_own_side(bar, ratio, holds):
    assert kept({"ratio": ratio, **bar}) is holds


def test_a_peer_that_is_not_there_is_refused_by_name():
    with Peers(Path("nowhere/python")) as peers:
        assert "nowhere/python" in peers.ask("ckks", length=1, peers=1)["missing"]
    with Peers(Path(sys.executable)) as peers:  # primia's own environment has none of them
        assert "flwr" in peers.ask("flower-mask", length=1, peers=1)["missing"]
        assert "tenseal" in peers.ask("ckks", length=1, peers=1)["missing"]


def test_what_is_opened_is_the_sum_of_the_survivors():
    cohort = Cohort(5, lost=1)
    revealed = cohort.reveal()
    draw = np.random.default_rng(1)
    words = {s: draw.integers(0, 1 << 24, SMALL.length, dtype=np.uint32) for s in cohort.names}
    total = cohort.masked(SMALL, words)
    plain = sum(words[s].astype(np.int64) for s in cohort.survivors)
    assert not np.array_equal(total, plain.astype(np.uint32))
    cohort.open(total, SMALL, revealed)
    bits = np.repeat([24, 32], [50, 1])
    assert total.tolist() == (plain % (1 << bits)).tolist()


@pytest.mark.parametrize(("n", "lost", "masks"), [(10, 3, 28), (100, 5, 570)])
def test_masks_are_counted_as_the_bars_count_them(n, lost, masks):
    assert Cohort(n, lost).masks == masks


def test_a_game_is_a_round_that_ends_in_the_right_sum():
    game = Game(5, SMALL, lost=1, words=np.arange(SMALL.length, dtype=np.uint32))
    commit = game.play()
    assert commit.contributors == game.names[:4]
    assert commit.totals[0].tolist() == [4 * i for i in range(SMALL.length)]
    assert game.site.seconds > 0
    assert game.coordinator.seconds > 0
    assert 1000 < game.bytes_up < 5000


def test_an_upload_is_quantised_masked_and_packed():
    site = vectors.Site(3, vectors.contribution(1000, 24))
    assert len(site.upload()) == site.layout.wire_bytes
    before = site.words.copy()
    site.mask()
    assert np.count_nonzero(site.words != before) > 990


def test_the_raw_key_stream_is_as_long_as_it_says():
    assert vectors._ctr().update(bytes(64)) != bytes(64)
    calls = []

    class Stream:
        def update_into(self, zeros, buffer):
            calls.append(len(zeros))

    vectors.key_stream(vectors.BUFFER * 2 + 5, Stream)
    assert calls == [vectors.BUFFER, vectors.BUFFER, 5]


def test_every_way_to_upload_arrives_and_bytes_are_counted(tmp_path):
    data = os.urandom(3_000_001)
    with Receiver(tmp_path) as receiver:
        ways = receiver.ways(data)
        assert ways.keys() == WAYS.keys()
        for way in ways.values():
            way()
        assert 1 < receiver.bytes_up(data, []) / len(data) < 1.01


def test_the_coordinators_memory_counts_the_running_sum():
    """A megabyte and a half of vector, and what a server needs beside it."""
    in_vectors = memory.peak(3, 400_000, 32)
    assert 1 < in_vectors < 30


def test_the_curve_counts_masks_of_lost_pairs():
    class Long:
        fold = mask = encode_and_pack = 1.0

        def masks(self, partners):
            return float(partners)

    point = curve.cost(6, 1, Long())
    assert point["masks_to_remove"] == 5 + 5
    assert point["coordinator_fold_s"] == 5
    assert point["site_vector_s"] == 1 + 5
    curve.table([point], Console(file=io.StringIO()))


def test_a_line_without_a_figure_is_listed_with_its_reason(tmp_path):
    rows = [
        run.timed("masks", "2 peers", Timing((1.2,)), Timing((1.0,)), "keystream", at_most=1.7),
        run.row("bytes", "24 bits", 0.8, "float32", at_most=0.76),
        {"section": "masks", "name": "Flower", "missing": "flwr is not installed"},
    ]
    where = {"cpu": "a CPU", "cores": 2, "load": 0.1, "versions": {}, "date": "today"}
    console = Console(width=80, record=True, file=io.StringIO())
    table({"machine": where, "length": 1000, "rows": rows}, console)
    text = console.export_text()
    assert "1.2  keystream  ≤ 1.7 ✓" in text
    assert "≤ 0.76 ✗" in text
    assert "masks, Flower: flwr is not installed" in text
    chart(rows, tmp_path / "secagg.png")
    assert (tmp_path / "secagg.png").read_bytes().startswith(b"\x89PNG")
    json.dumps(rows)
