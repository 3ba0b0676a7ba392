"""What docker/compose.yaml promises, read from the file: no engine is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from primia.config import load_plan, load_site

DOCKER = Path(__file__).parents[2] / "docker"
HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    # Not the strict loader: compose files share settings by anchors, which that one refuses.
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def test_hospitals_share_a_network_with_the_coordinator_and_with_nobody_else(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    for name in HOSPITALS:
        (network,) = services[name]["networks"]
        members = {s for s, terms in services.items() if network in terms["networks"]}
        assert members == {name, "coordinator"}


def test_no_network_leads_out_and_no_port_is_published(compose: dict[str, Any]) -> None:
    used = {n for service in compose["services"].values() for n in service["networks"]}
    assert used == set(compose["networks"])
    assert all(terms == {"internal": True} for terms in compose["networks"].values())
    for service in compose["services"].values():
        # `network_mode` and `links` would go round the networks.
        assert not {"ports", "network_mode", "links", "extra_hosts"} & set(service)


def test_hospitals_share_no_writable_volume_with_each_other(compose: dict[str, Any]) -> None:
    def volumes(service: str) -> set[str]:
        mounts = [m.split(":") for m in compose["services"][service]["volumes"]]
        return {source for source, _, *mode in mounts if not source.startswith("./") or not mode}

    for one in HOSPITALS:
        for other in set(HOSPITALS) - {one}:
            assert not volumes(one) & volumes(other)
        assert f"{one}-state" not in volumes("coordinator")


def test_every_container_runs_without_privileges_on_a_read_only_root(
    compose: dict[str, Any],
) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["user"].startswith(("0", "root"))
        assert "privileged" not in service


def test_the_plan_of_the_simulation_names_its_hospitals_and_fits_their_caps() -> None:
    plan = load_plan(DOCKER / "simulation" / "study.yaml")
    site = load_site(DOCKER / "simulation" / "site.yaml")
    assert plan.sites == HOSPITALS
    assert plan.privacy != "none"
    assert plan.privacy.target_epsilon is not None
    assert plan.privacy.target_epsilon <= site.caps.max_epsilon
    assert plan.privacy.delta <= site.caps.max_delta
