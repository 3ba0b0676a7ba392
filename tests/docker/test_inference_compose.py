"""What the compose file of encrypted prediction promises, read from it: no engine is needed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from primia.cli.infer import app

FILE = Path(__file__).parents[2] / "docker" / "inference" / "compose.yaml"
SERVICES: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]
ROLES = ("model", "dealer", "hospital")


def networks(name: str) -> set[str]:
    return set(SERVICES[name].get("networks", ()))


def test_each_pair_of_roles_has_a_network_of_its_own_and_no_three_share_one() -> None:
    for a, b in itertools.combinations(ROLES, 2):
        assert len(networks(a) & networks(b)) == 1
    assert not networks("model") & networks("dealer") & networks("hospital")


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_read_only_without_privileges_or_ports(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in service
    assert not service["user"].startswith("0")


@pytest.mark.parametrize("name", ROLES)
def test_no_role_mounts_the_state_of_another(name: str) -> None:
    states = [m.split(":")[0] for m in SERVICES[name]["volumes"] if "-state" in m]
    assert states == [f"{name}-state"]


@pytest.mark.parametrize("name", SERVICES)
def test_the_commands_are_ones_that_the_tool_knows(name: str) -> None:
    group = typer.main.get_command(app)
    command, *arguments = SERVICES[name]["command"]
    context = group.make_context("infer", [command, *arguments], resilient_parsing=True)
    assert group.get_command(context, command) is not None  # type: ignore[attr-defined]
    known = {o for p in group.get_command(context, command).params for o in p.opts}  # type: ignore[attr-defined]
    assert {a for a in arguments if a.startswith("--")} <= known
