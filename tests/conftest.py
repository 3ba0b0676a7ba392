"""One profile for all property tests: a loaded machine is no finding."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("primia", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("primia")
