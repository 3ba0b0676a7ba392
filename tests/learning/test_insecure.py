import os
import subprocess
import sys
import warnings

import pytest

from primia.learning.insecure import InsecureEntropyWarning, insecure_seeded_entropy

SCRIPT = (
    "from primia.learning.insecure import insecure_seeded_entropy as f\n"
    "try: print(f(7)(8).hex())\n"
    "except Exception as err: print(type(err).__name__, err)\n"
)


def _outside_pytest(**variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PRIMIA"))}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=inherited | variables,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("variables", [{}, {"PRIMIA_INSECURE_SIMULATION": "0"}])
def test_outside_tests_seeded_entropy_is_refused_with_cause_and_remedy(variables):
    said = _outside_pytest(**variables).stdout
    assert said.startswith("PolicyRefused")
    assert "protects nobody" in said
    assert "os.urandom" in said
    assert "PRIMIA_INSECURE_SIMULATION=1" in said


def test_a_simulation_that_says_so_gets_the_same_bytes_in_every_process_and_a_warning():
    process = _outside_pytest(PRIMIA_INSECURE_SIMULATION="1")
    with pytest.warns(InsecureEntropyWarning):
        assert process.stdout.strip() == insecure_seeded_entropy(7)(8).hex()
    assert "InsecureEntropyWarning" in process.stderr


def test_the_bytes_depend_on_the_seed_and_never_repeat_within_a_stream():
    with pytest.warns(InsecureEntropyWarning):
        a, b, c = (insecure_seeded_entropy(seed) for seed in (1, 1, 2))
    first = a(32)
    assert first == b(32)
    assert first != c(32)
    assert a(32) == b(32) != first
    assert len(a(5)) == 5


def test_it_warns_each_time_it_is_called():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            insecure_seeded_entropy(1)
    assert [w.category for w in caught] == [InsecureEntropyWarning] * 3
    assert all(w.filename == __file__ for w in caught)
