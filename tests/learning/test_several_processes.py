"""One logical batch over several processes of one hospital (gloo on the CPU)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent


def train(ranks, folder, *, steps=4, rate=0.4, kind="flat"):
    """The result of each rank."""
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    arguments = [str(folder / f"meet-{ranks}-{kind}-{rate}"), str(steps), str(rate), kind]
    running = [
        subprocess.Popen(
            [sys.executable, HERE / "one_rank.py", str(rank), str(ranks), *arguments],
            env=os.environ | {"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    found = []
    try:
        for process in running:
            out, _ = process.communicate(timeout=120)
            assert process.returncode == 0
            found.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in running:
            process.kill()
    return found


@pytest.mark.parametrize(("rate", "kind"), [(0.4, "flat"), (0.04, "flat"), (0.4, "adaptive")])
def test_two_processes_make_the_step_that_one_makes(tmp_path, rate, kind):
    # 0.04 of 20 patients: batches of one and of none, so that a process often has nothing to do.
    (alone,) = train(1, tmp_path, rate=rate, kind=kind)
    first, second = train(2, tmp_path, rate=rate, kind=kind)
    assert first["weights"] == second["weights"]
    assert first["clip_norm"] == second["clip_norm"] == pytest.approx(alone["clip_norm"], rel=1e-6)
    one, two = np.array(alone["weights"]), np.array(first["weights"])
    assert np.linalg.norm(two - one) < 1e-5 * np.linalg.norm(one)
    for whole, mine, other in zip(alone["rows"], first["rows"], second["rows"], strict=True):
        assert sorted(mine + other) == whole
