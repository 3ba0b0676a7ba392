"""Other people's encrypted prediction of the same network and film, in an interpreter that has it.

    PYTHON -m benchmarks.inference.peers crypten|semi2k|aby3 FOLDER

FOLDER holds program.json (as `primia.inference.program` writes it), weights.npz and film.npy, in
real numbers. Every party is a process of its own, over TCP on the loopback; film and weights are
secret-shared beforehand, and measured is the forward pass alone. CrypTen's and SEMI2K's dealer is
their default, the first party: insecure, and free of a dealer's traffic. Prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference.loopback import carried, peak_mb

Raw = dict[str, Any]
Weights = dict[str, Any]
START_S = 600.0


def load(folder: Path) -> tuple[list[Raw], Weights, Any]:
    nodes: list[Raw] = json.loads((folder / "program.json").read_text())["nodes"]
    with np.load(folder / "weights.npz", allow_pickle=False) as file:
        weights = {name: file[name] for name in file.files}
    return nodes, weights, np.load(folder / "film.npy", allow_pickle=False)


def forward(nodes: list[Raw], step: Callable[[Raw, list[Any]], Any], film: Any) -> Any:
    values: list[Any] = []
    for node in nodes:
        inputs = [values[i] for i in node["inputs"]]
        values.append(film if node["op"]["kind"] == "input" else step(node, inputs))
    return values[-1]


# --- CrypTen -------------------------------------------------------------------------------------


def crypten_step(weights: Weights) -> Callable[[Raw, list[Any]], Any]:
    def step(node: Raw, inputs: list[Any]) -> Any:
        op, x = node["op"], inputs[0]
        weight, bias = (weights.get(f"{node['name']}.{part}") for part in ("weight", "bias"))
        match op["kind"]:
            case "conv2d":
                out = x.conv2d(
                    weight, stride=op["stride"], padding=op["padding"],
                    dilation=op["dilation"], groups=op["groups"],
                )  # fmt: skip
                return out.add(bias.reshape(1, -1, 1, 1))
            case "linear":
                return x.matmul(weight.t()).add(bias)
            case "relu":
                return x.relu()
            case "max-pool2d":
                return x.max_pool2d(op["kernel"], stride=op["stride"], padding=op["padding"])
            case "avg-pool2d":
                return x.avg_pool2d(op["kernel"], stride=op["stride"], padding=op["padding"])
            case "add":
                return x.add(inputs[1])
            case "flatten":
                return x.flatten(1)
            case "affine":
                return x.mul(weight.reshape(1, -1, 1, 1)).add(bias.reshape(1, -1, 1, 1))
            case "group-norm":
                groups = x.reshape(op["groups"], -1)
                centred = groups.sub(groups.mean(1, keepdim=True))
                variance = centred.square().mean(1, keepdim=True)
                normal = centred.mul(variance.add(op["eps"]).inv_sqrt()).reshape(*x.size())
                shape = (1, -1, *[1] * (len(x.size()) - 2))
                return normal.mul(weight.reshape(shape)).add(bias.reshape(shape))
        raise NotImplementedError(op["kind"])

    return step


def crypten_party(rank: int, folder: Path, meeting: str, results: Any) -> None:
    os.environ |= {
        "WORLD_SIZE": "2", "RANK": str(rank), "RENDEZVOUS": f"file://{meeting}",
        "GLOO_SOCKET_IFNAME": "lo", "DISTRIBUTED_BACKEND": "gloo",
    }  # fmt: skip
    import torch

    torch.set_num_threads(1)
    # It imports a module that newer torch has not, for a converter that is not used here.
    stand_in = types.ModuleType("torch.onnx._internal.registration")
    stand_in.registry = None  # type: ignore[attr-defined]
    sys.modules[stand_in.__name__] = stand_in
    import crypten
    from crypten import communicator

    crypten.init()
    nodes, raw, film = load(folder)
    weights = {k: crypten.cryptensor(torch.from_numpy(v), src=0) for k, v in raw.items()}
    x = crypten.cryptensor(torch.from_numpy(film), src=0)
    wire = communicator.get()
    communicator.get().barrier()
    before, rounds, began = carried(), wire.comm_rounds, time.perf_counter()
    cpu = time.process_time()
    logits = forward(nodes, crypten_step(weights), x)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    communicator.get().barrier()
    plain = logits.get_plain_text()
    results.put(
        {"rank": rank, "seconds": seconds, "cpu_seconds": cpu, "bytes": carried() - before,
         "rounds": wire.comm_rounds - rounds or None, "peak_mb": peak_mb(),
         "logits": plain.double().tolist()}
    )  # fmt: skip
    communicator.get().barrier()


def crypten(folder: Path) -> Raw:
    with tempfile.TemporaryDirectory() as place:
        context = multiprocessing.get_context("spawn")
        return run_parties(context, 2, crypten_party, (folder, str(Path(place) / "meeting")))


# --- SPU -----------------------------------------------------------------------------------------


def spu_function(nodes: list[Raw], names: list[str]) -> Callable[..., Any]:
    import jax.numpy as jnp
    from jax import lax

    def pooled(x: Any, op: Raw, start: float, combine: Any) -> Any:
        window, strides = (1, 1, op["kernel"], op["kernel"]), (1, 1, op["stride"], op["stride"])
        padding = ((0, 0), (0, 0), (op["padding"],) * 2, (op["padding"],) * 2)
        return lax.reduce_window(x, start, combine, window, strides, padding)

    def step(weights: Weights, node: Raw, inputs: list[Any]) -> Any:
        op, x = node["op"], inputs[0]
        weight, bias = (weights.get(f"{node['name']}.{part}") for part in ("weight", "bias"))
        shape = (1, -1, *[1] * (x.ndim - 2))
        match op["kind"]:
            case "conv2d":
                out = lax.conv_general_dilated(
                    x, weight, (op["stride"],) * 2, ((op["padding"],) * 2,) * 2,
                    rhs_dilation=(op["dilation"],) * 2, feature_group_count=op["groups"],
                )  # fmt: skip
                return out + bias.reshape(shape)
            case "linear":
                return x @ weight.T + bias
            case "relu":
                return jnp.maximum(x, 0)
            case "max-pool2d":
                return pooled(x, op, -1e4, lax.max)
            case "avg-pool2d":
                return pooled(x, op, 0.0, lax.add) / op["kernel"] ** 2
            case "add":
                return x + inputs[1]
            case "flatten":
                return x.reshape(len(x), -1)
            case "affine":
                return x * weight.reshape(shape) + bias.reshape(shape)
            case "group-norm":
                groups = x.reshape(op["groups"], -1)
                centred = groups - groups.mean(1, keepdims=True)
                variance = (centred**2).mean(1, keepdims=True)
                normal = (centred * lax.rsqrt(variance + op["eps"])).reshape(x.shape)
                return normal * weight.reshape(shape) + bias.reshape(shape)
        raise NotImplementedError(op["kind"])

    def predict(film: Any, *values: Any) -> Any:
        weights = dict(zip(names, values, strict=True))
        return forward(nodes, lambda node, inputs: step(weights, node, inputs), film)

    return predict


def spu_party(rank: int, addresses: list[str], protocol: str, compiled: Any, results: Any) -> None:
    from spu import api, libspu

    config = _spu_config(protocol)
    executable = libspu.Executable()
    executable.name, executable.code = "predict", compiled["code"]
    executable.input_names = compiled["inputs"]
    executable.output_names = compiled["outputs"]

    described = libspu.link.Desc()
    for i, address in enumerate(addresses):
        described.add_party(f"party-{i}", address)
    link = libspu.link.create_brpc(described, rank)
    runtime = api.Runtime(link, config)
    for name, shares in zip(compiled["inputs"], compiled["shares"], strict=True):
        share = libspu.Share()
        share.meta, share.share_chunks = shares[rank]
        runtime.set_var(name, share)
    link.barrier() if hasattr(link, "barrier") else time.sleep(2)
    before, actions = carried(), _sent(link)
    cpu, began = time.process_time(), time.perf_counter()
    runtime.run(executable)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    found = {
        "rank": rank, "seconds": seconds, "cpu_seconds": cpu, "bytes": carried() - before,
        "rounds": (_sent(link) or 0) - (actions or 0) or None, "peak_mb": peak_mb(),
    }  # fmt: skip
    share = runtime.get_var(executable.output_names[0])
    results.put(found | {"share": (share.meta, list(share.share_chunks))})
    time.sleep(1)


def _sent(link: Any) -> int | None:
    """How many messages this party has sent, where this version tells."""
    with contextlib.suppress(AttributeError):
        return int(link.get_stats().sent_actions)
    return None


def _spu_config(protocol: str) -> Any:
    from spu import libspu

    kind = libspu.ProtocolKind.SEMI2K if protocol == "semi2k" else libspu.ProtocolKind.ABY3
    return libspu.RuntimeConfig(protocol=kind, field=libspu.FieldType.FM64)


def spu(folder: Path, protocol: str) -> Raw:
    from spu import api, libspu
    from spu.utils import frontend

    nodes, weights, film = load(folder)
    parties, config = 2 if protocol == "semi2k" else 3, _spu_config(protocol)
    names = list(weights)
    arguments = [film, *weights.values()]
    executable, _ = frontend.compile(
        frontend.Kind.JAX, spu_function(nodes, names), arguments, {},
        [f"in{i}" for i in range(len(arguments))],
        [libspu.Visibility.VIS_SECRET] * len(arguments),
        lambda outputs: [f"out{i}" for i in range(len(outputs))],
    )  # fmt: skip
    io = api.Io(parties, config)
    shares = [io.make_shares(np.asarray(a), libspu.Visibility.VIS_SECRET) for a in arguments]
    compiled = {
        "code": executable.code, "inputs": list(executable.input_names),
        "outputs": list(executable.output_names),
        "shares": [[(p.meta, list(p.share_chunks)) for p in parts] for parts in shares],
    }  # fmt: skip
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(parties)]
    # Not forked: jax has threads, and a forked child would wait for their locks for ever.
    context = multiprocessing.get_context("spawn")
    answer = run_parties(context, parties, spu_party, (addresses, protocol, compiled))
    outputs = []
    for meta, chunks in answer.pop("share"):
        share = libspu.Share()
        share.meta, share.share_chunks = meta, chunks
        outputs.append(share)
    answer["logits"] = np.asarray(io.reconstruct(outputs), np.float64).tolist()
    return answer


# --- both ----------------------------------------------------------------------------------------


def run_parties(context: Any, count: int, party: Callable[..., None], arguments: Any) -> Raw:
    """Start the parties, and put their results into one."""
    results = context.Queue()
    processes = [
        context.Process(target=party, args=(rank, *arguments, results)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        found = [results.get(timeout=START_S) for _ in processes]
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.terminate()
    found.sort(key=lambda f: f["rank"])
    answer: Raw = {
        "seconds": max(f["seconds"] for f in found),
        "cpu_seconds": sum(f["cpu_seconds"] for f in found),
        "bytes": max(f["bytes"] for f in found),
        "rounds": max(f["rounds"] or 0 for f in found) or None,
        "peak_mb": max(f["peak_mb"] for f in found),
    }
    if "share" in found[0]:
        answer["share"] = [f["share"] for f in found]
    else:
        answer["logits"] = found[0]["logits"]
    return answer


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def main() -> None:
    peer, folder = sys.argv[1], Path(sys.argv[2])
    answer = crypten(folder) if peer == "crypten" else spu(folder, peer)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
