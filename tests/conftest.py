"""One profile for all property tests: a loaded machine is no finding."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("primia", deadline=None)
settings.load_profile("primia")
