"""Other people's work on the same vector, in an interpreter that has it.

    PYTHON -m benchmarks.secagg.peers    (`Peers` starts it; needs numpy and peers.txt)

Reads requests as lines of JSON and answers each with a line: seconds and bytes, or what is
missing. So a peer runs in turns with primia although the two do not fit into one environment.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
Answer = dict[str, Any]


class Peers:
    """The interpreter with the peers, running; use it in a `with`."""

    def __init__(self, python: Path) -> None:
        self._process: subprocess.Popen[str] | None = None
        if python.exists():
            self._process = subprocess.Popen(
                [str(python), "-m", "benchmarks.secagg.peers"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._python = python

    def ask(self, case: str, **arguments: int) -> Answer:
        """`seconds` of CPU time of the work alone and `bytes`, or `missing` with the reason."""
        if self._process is None:
            return {"missing": f"no interpreter at {self._python}; run make bench-secagg"}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"case": case, **arguments}) + "\n")
        self._process.stdin.flush()
        answer: Answer = json.loads(self._process.stdout.readline() or '{"missing": "it died"}')
        return answer

    def __enter__(self) -> Peers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.communicate()  # it ends with its input


# --- below: in the peers' interpreter ------------------------------------------------------------


@cache
def values(length: int) -> np.ndarray[Any, Any]:
    """An update as its site would have it, float32."""
    return np.random.default_rng(0).normal(0, 0.01, length).astype(np.float32)


class Missing(Exception):
    """The package of this case is not here."""


def flower() -> Any:
    """Flower's client side of SecAgg+; its own functions are called, stage by stage."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    try:
        return importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    except ImportError as err:
        raise Missing(f"flwr: {err}") from err


@cache
def flower_client(peers: int) -> tuple[Any, dict[str, Any]]:
    """One client before its stage 1, and the public keys of itself and `peers` others.

    With its server's defaults: 22 bits in a ring of 32, clipped to 8, weights up to 1000.
    """
    mod, n = flower(), peers + 1
    settings = {
        mod.Key.SAMPLE_NUMBER: n,
        mod.Key.SHARE_NUMBER: n,
        mod.Key.THRESHOLD: 2 * n // 3 + 1,
        mod.Key.CLIPPING_RANGE: 8.0,
        mod.Key.TARGET_RANGE: 1 << 22,
        mod.Key.MOD_RANGE: 1 << 32,
        mod.Key.MAX_WEIGHT: 1000.0,
    }
    clients = [mod.SecAggPlusState(nid=i) for i in range(1, n + 1)]
    for client in clients:
        mod._setup(client, settings)
    return clients[0], {str(client.nid): (client.pk1, client.pk2) for client in clients}


def flower_share(_: int, peers: int) -> tuple[float, int]:
    """Its stage 1: agree with all peers, share both secrets, encrypt the shares."""
    mod = flower()
    client, public = flower_client(peers)
    begin = time.process_time()
    sent = mod._share_keys(client, public)
    return time.process_time() - begin, sum(map(len, sent[mod.Key.CIPHERTEXT_LIST]))


@cache
def flower_received(peers: int) -> dict[str, Any]:
    """What the client hears before its stage 2; its peers' ciphertexts hold empty shares."""
    mod = flower()
    client, public = flower_client(peers)
    mod._share_keys(client, public)
    sealing = importlib.import_module("flwr.common.secure_aggregation.crypto.symmetric_encryption")
    wording = importlib.import_module("flwr.common.secure_aggregation.secaggplus_utils")
    sealed = {
        nid: sealing.encrypt(
            key, wording.share_keys_plaintext_concat(nid, client.nid, bytes(36), bytes(324))
        )
        for nid, key in client.ss2_dict.items()
    }
    return {mod.Key.SOURCE_LIST: list(sealed), mod.Key.CIPHERTEXT_LIST: list(sealed.values())}


def flower_mask(length: int, peers: int) -> tuple[float, int]:
    """Its stage 2: weigh, quantise, mask, serialise."""
    mod, received = flower(), flower_received(peers)
    client, _ = flower_client(peers)
    common = importlib.import_module("flwr.common")
    update = common.ndarrays_to_parameters([values(length)])
    begin = time.process_time()
    sent = mod._collect_masked_vectors(client, received, 1000, update)
    return time.process_time() - begin, sum(map(len, sent[mod.Key.MASKED_PARAMETERS]))


def ckks(length: int, peers: int) -> tuple[float, int]:
    """Encrypt and serialise under CKKS with NVFLARE's parameters; the peers do not matter.

    N = 8192, primes of 60, 40, 40 bits, scale 2^40, symmetric (its `tenseal_context` provisioner).
    """
    del peers
    try:
        ts: Any = importlib.import_module("tenseal")
    except ImportError as err:
        raise Missing(f"tenseal: {err}") from err
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    context.global_scale = 2**40
    update = values(length)
    begin = time.process_time()
    size = len(ts.ckks_vector(context, update).serialize())
    return time.process_time() - begin, size


CASES: dict[str, Callable[[int, int], tuple[float, int]]] = {
    "flower-share": flower_share,
    "flower-mask": flower_mask,
    "ckks": ckks,
}


def answer(request: dict[str, Any]) -> Answer:
    """The reply to one request."""
    try:
        seconds, size = CASES[request["case"]](request["length"], request["peers"])
    except Missing as err:
        return {"missing": str(err)}
    return {"seconds": seconds, "bytes": size}


def versions() -> dict[str, str]:
    """Of the peers that are here."""
    found = {}
    for package in ("flwr", "tenseal"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def main() -> None:
    """Answer until the input ends; what the peers print goes to standard error."""
    replies, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        reply = versions() if request["case"] == "versions" else answer(request)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
