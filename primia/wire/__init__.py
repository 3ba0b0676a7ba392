"""gRPC: plain protocol dataclasses in, plain protocol dataclasses out; no `*_pb2` leaves here."""
