"""Real daemons whose certificates and authority are replaced while they train; none restarts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from primia.demo.fleet import call
from primia.errors import StateError
from tests.processes.federation import Federation, committed, plan

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

THREE = ["north", "south", "east"]
RENEWING = "tests.processes.renews_always"


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path, THREE)
    try:
        yield made
    finally:
        made.stop()


def authorities(federation: Federation) -> list[dict[str, object]]:
    return list(
        json.loads(
            call("coordinator", "authority", "status", "--json", "--state", str(federation.home))
        )
    )


def retired(federation: Federation) -> bool:
    """Refused while a site has just been given another certificate and not used it yet."""
    try:
        call("coordinator", "authority", "retire", "--state", str(federation.home))
    except StateError:
        return False
    return True


def test_rounds_go_on_while_everything_is_renewed_and_the_authority_is_replaced(
    federation: Federation,
) -> None:
    federation.found(plan(THREE) | {"rounds": 6})
    federation.daemons["coordinator"].process.terminate()
    federation.daemons["coordinator"].process.wait(60)
    federation.coordinator_module = RENEWING
    coordinator = federation.start_coordinator()
    for name in THREE:
        federation.start_worker(name, RENEWING)
    federation.wait_for(coordinator, "round_committed", round=1)
    call("coordinator", "authority", "rotate", "--state", str(federation.home))
    federation.wait_until(lambda: authorities(federation)[1]["sites"] == sorted(THREE), 300)
    federation.wait_until(lambda: retired(federation), 120)
    assert [a["state"] for a in authorities(federation)] == ["retired", "in use"]
    federation.wait_for_end(400)

    for name in THREE:  # the first processes, still there, heard the end by themselves
        process = federation.daemons[name].process
        federation.wait_until(lambda process=process: process.poll() is not None, 120)
        assert process.returncode == 0
    result = federation.result()
    assert committed(result) == [1, 2, 3, 4, 5, 6, 7]
    for name in THREE:
        log = (federation.folder / f"{name}.log").read_text()
        assert log.count('"certificate_renewed"') > 3
        assert [r for r, _ in federation.ledger(name)] == [1, 2, 3, 4, 5, 6]
