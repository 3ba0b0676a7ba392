"""Encrypted prediction as a service: the three roles of `primia infer`, their folders and stores.

The protocol itself is `primia.inference`, which does no I/O; gRPC is in `primia.wire`.
"""
