"""Generated from protos/primia/wire/v1 by `python -m primia.wire.generate`; do not edit."""
