"""What a session's seeds are bound to: used for anything else they give noise, never a film."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from primia.identity.certificate import Identity
from primia.types import Digest
from primia.wire.inference_handler import Terms

DATA, MODEL = b"data", b"model"
"""Whose seed."""

NOISE = b"noise"
"""From the model owner's: it may know the noise, for it never sees the answer."""


@dataclass(frozen=True)
class Binding:
    """For what a batch was dealt. The program hash holds the model version, too."""

    program: Digest
    model: Identity
    data_owner: Identity
    batch: bytes
    films: int
    terms: Terms

    def seed(self, dealt: bytes, session: bytes, party: bytes) -> bytes:
        """The seed that `party` works with, from the 32 bytes that the dealer sent.

        HKDF-SHA256 over everything that all three must agree on: whoever holds another program,
        identity, batch, session, number of films or terms gets an unrelated seed.
        """
        info = b"\0".join(
            (
                b"primia inference session v1",
                party,
                bytes.fromhex(self.program),
                self.model.uri.encode(),
                self.data_owner.uri.encode(),
                self.films.to_bytes(4, "big"),
                self.batch,
                str(self.terms).encode(),
            )
        )
        return HKDF(hashes.SHA256(), length=32, salt=session, info=info).derive(dealt)
