"""What the compose files and the Dockerfile promise, read from them: no engine is needed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from primia.config import load_plan, load_site

DOCKER = Path(__file__).parents[2] / "docker"
HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
MORE = (*HOSPITALS, "hospital-d")


def read(name: str) -> dict[str, Any]:
    # Not the strict loader: compose files share settings by anchors, which that one refuses.
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))
    return loaded


def merged() -> dict[str, Any]:
    """Both files as compose puts them together: lists are joined, of mounts the later one wins."""
    base, more = read("compose.yaml"), read("compose.chaos.yaml")
    services = {**more["services"], **base["services"]}
    coordinator = dict(base["services"]["coordinator"])
    for key in ("networks", "volumes"):
        coordinator[key] = [*coordinator[key], *more["services"]["coordinator"][key]]
    services["coordinator"] = coordinator
    return {
        "services": services,
        "networks": base["networks"] | more["networks"],
        "volumes": base["volumes"] | more["volumes"],
    }


@pytest.fixture(scope="module", params=["demo", "chaos"])
def compose(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read("compose.yaml") if request.param == "demo" else merged()


def hospitals(compose: dict[str, Any]) -> list[str]:
    return [name for name in compose["services"] if name.startswith("hospital-")]


def volumes(service: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """source → (target, mode)"""
    mounts = [m.split(":") for m in service.get("volumes", ())]
    return {source: (target, *(mode or ["rw"])) for source, target, *mode in mounts}  # type: ignore[misc]


def test_there_are_as_many_hospitals_as_promised() -> None:
    assert hospitals(read("compose.yaml")) == list(HOSPITALS)
    assert sorted(hospitals(merged())) == list(MORE)


def test_hospitals_share_a_network_with_the_coordinator_and_with_nobody_else(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    for name in hospitals(compose):
        (network,) = services[name]["networks"]
        members = {s for s, terms in services.items() if network in terms.get("networks", ())}
        people = {name.replace("hospital", "enrol"), name.replace("hospital", "approve")}
        assert members == {name, "coordinator", *people}


def test_no_network_leads_out_and_no_port_is_published(compose: dict[str, Any]) -> None:
    services = compose["services"].values()
    used = {n for service in services for n in service.get("networks", ())}
    assert used == set(compose["networks"])
    assert all(terms == {"internal": True} for terms in compose["networks"].values())
    for service in services:
        # `network_mode` and `links` would go round the networks.
        assert not {"ports", "links", "extra_hosts", "devices"} & set(service)
        assert service.get("networks") or service["network_mode"] == "none"


def test_hospitals_share_no_writable_volume_with_anybody_but_their_own_people(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    for name in hospitals(compose):
        mine = {s for s in volumes(services[name]) if not s.startswith("./")}
        letter = name[-1]
        assert mine == {f"films-{letter}", f"hospital-{letter}-state"}
        sharing = {s for s, terms in services.items() if mine & set(volumes(terms))}
        people = {f"films-{letter}", f"enrol-{letter}", f"approve-{letter}"}
        assert sharing == {name, *people}


def test_films_and_settings_are_mounted_read_only(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for source, (_, mode) in volumes(service).items():
            if source.startswith("./") or (
                source.startswith("films-") and not name.startswith("films-")
            ):
                assert mode == "ro", (name, source)


def test_codes_travel_in_memory_and_the_daemons_never_see_them(compose: dict[str, Any]) -> None:
    posts = {v: terms for v, terms in compose["volumes"].items() if v.startswith("post-")}
    assert len(posts) == len(hospitals(compose))
    assert all(terms["driver_opts"]["type"] == "tmpfs" for terms in posts.values())
    for name, service in compose["services"].items():
        if any(source in posts for source in volumes(service)):
            assert name.startswith(("invite-", "enrol-"))
        # On a command line or in the environment everybody on the machine could read them.
        assert "environment" not in service


def test_every_container_runs_without_privileges_on_a_read_only_root(
    compose: dict[str, Any],
) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["pids_limit"]
        assert service["mem_limit"]
        assert service["ulimits"] == {"core": 0}
        assert not service["user"].startswith(("0", "root"))
        assert not {"privileged", "cap_add", "pid", "ipc", "userns_mode"} & set(service)


def test_nothing_is_started_by_a_shell(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        # A string would go through `sh -c`; a list is executed as it is.
        assert isinstance(service.get("command", []), list)
        assert service.get("entrypoint", ["python"])[0] == "python"
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    started = [line for line in lines if line.lstrip().startswith(("ENTRYPOINT", "CMD"))]
    assert Counter(line.split()[0] for line in started) == {"ENTRYPOINT": 2, "CMD": 4}
    assert all(line.split(maxsplit=1)[1].startswith('["') for line in started)
    assert not list(DOCKER.rglob("*.sh"))


@pytest.mark.parametrize(
    ("plan_file", "sites"), [("study.yaml", HOSPITALS), ("study.chaos.yaml", MORE)]
)
def test_the_plan_of_the_simulation_names_its_hospitals_and_fits_their_caps(
    plan_file: str, sites: tuple[str, ...]
) -> None:
    plan = load_plan(DOCKER / "simulation" / plan_file)
    site = load_site(DOCKER / "simulation" / "site.yaml")
    assert plan.sites == sites
    assert plan.privacy != "none"
    assert plan.privacy.target_epsilon is not None
    assert plan.privacy.target_epsilon <= site.caps.max_epsilon
    assert plan.privacy.delta <= site.caps.max_delta
