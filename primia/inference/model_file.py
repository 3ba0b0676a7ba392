"""A prepared model as one safetensors file: weights in fixed point, the program in its header.

Only the model owner holds it. A file is believed when its weights have the SHA-256 that its header
states and are exactly those that its program names; nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from primia.errors import ConfigError, PeerError
from primia.inference.program import (
    Integers,
    Program,
    Weights,
    check_weights,
    from_json,
    to_json,
)

FORMAT = "primia-inference-model/1"
MAX_FILE_BYTES = 4 << 30
MAX_HEADER_BYTES = 8 << 20
_REMEDY = "write it with `primia infer prepare`"


def weights_digest(weights: Weights) -> str:
    """SHA-256 over names, shapes and little-endian values, in the order of the names."""
    digest = hashlib.sha256(b"primia model weights v1")
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name].astype("<i8", copy=False))
        digest.update(json.dumps([name, array.shape]).encode() + b"\0")
        digest.update(array.data)
    return digest.hexdigest()


def pack(program: Program, weights: Weights) -> bytes:
    """The file's content. Raises ValueError when `weights` are not the program's."""
    check_weights(program, weights)
    metadata = {
        "format": FORMAT,
        "program": to_json(program).decode("ascii"),
        "weights_sha256": weights_digest(weights),
    }
    return save({k: np.ascontiguousarray(v) for k, v in weights.items()}, metadata=metadata)


def unpack(data: bytes, where: str) -> tuple[Program, dict[str, Integers]]:
    """Program and weights of a file's content; `where` names it in messages.

    Raises ConfigError for a file that is no model, is damaged, or does not hold together.
    """
    metadata = _metadata(data, where)
    try:
        program = from_json(metadata["program"].encode())
        weights = load(data)
        check_weights(program, weights)
    except (SafetensorError, PeerError, ValueError, KeyError) as err:
        raise ConfigError(f"{where}: not a usable model ({err}); {_REMEDY}") from err
    if weights_digest(weights) != metadata.get("weights_sha256"):
        raise ConfigError(f"{where}: the weights are not those it was written with; {_REMEDY}")
    return program, weights


def read(path: Path) -> tuple[Program, dict[str, Integers]]:
    """Program and weights of a prepared model. Raises ConfigError."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: {size} bytes is more than any model here; {_REMEDY}")
        return unpack(path.read_bytes(), str(path))
    except OSError as err:
        raise ConfigError(f"{path}: cannot be read ({err.strerror}); check the path") from err


def _metadata(data: bytes, where: str) -> dict[str, str]:
    """safetensors gives the header's texts only of files on disk, so they are read here."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > MAX_HEADER_BYTES:
            raise ValueError("its header is too long")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {str(metadata['format'])[:40]!r}")
        return {str(k): str(v) for k, v in metadata.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise ConfigError(f"{where}: not a prepared model ({err}); {_REMEDY}") from err
