"""Does the suite notice when the protocol is broken on purpose? `make test-mutations`

Each mutation is one small change that takes a defence or a step of arithmetic away. For each, the
tree is copied, changed and tested; a mutation that no test fails for has survived. Prints the
survivors and fails if more than 5 % of all survive.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.mutation import Mutation

ROOT = Path(__file__).parents[2]
COPIED = ("primia", "tests", "docs", "coordinator", "worker", "protos", "pyproject.toml")
LIMIT_S = 300
ALLOWED = 0.05


def survives(mutation: Mutation) -> bool:
    """Whether the suite passes with this mutation in place."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            source = ROOT / name
            ignore = shutil.ignore_patterns("__pycache__")
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=ignore)
            else:
                shutil.copy(source, tree / name)
        target = tree / mutation.file
        target.write_text(mutation.applied_to(target.read_text()))
        # A change of time stamps within a second must not leave the old byte code in use.
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            *mutation.suite,
        ]
        try:
            done = subprocess.run(
                command, cwd=tree, env=environment, capture_output=True, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return False  # a round that never ends is noticed, too
        if done.returncode not in (0, 1):
            raise SystemExit(f"{mutation.name}: pytest did not run\n{done.stdout.decode()[-2000:]}")
        return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="mutations tested side by side")
    parser.add_argument("--only", default="", help="those whose name contains this")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if arguments.only in m.name]
    for mutation in chosen:  # each must fit the code as it is, before hours are spent
        mutation.applied_to((ROOT / mutation.file).read_text())
    survivors = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for mutation, alive in zip(chosen, pool.map(survives, chosen), strict=True):
            print(f"{'SURVIVED' if alive else 'killed  '}  {mutation.name}", flush=True)
            if alive:
                survivors.append(mutation)
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} mutations were noticed")
    for mutation in survivors:
        print(f"  survived: {mutation.name} ({mutation.file})")
    sys.exit(len(survivors) > ALLOWED * len(chosen))


if __name__ == "__main__":
    main()
