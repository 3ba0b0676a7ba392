"""gRPC: plain protocol dataclasses in, plain protocol dataclasses out; no `*_pb2` leaves here."""

import os

# gRPC's C++ core writes handshake failures to the terminal by itself; we say them in our words.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
