"""What the commands say beside an answer: what is gone, what takes space, what is left to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from primia.cli.infer import app
from primia.infer.data_owner import DataOwner
from primia.types import SiteId
from tests.inference_service import toy
from tests.inference_service.conftest import World

HOSPITAL = SiteId("hospital")


@pytest.fixture(autouse=True)
def _toy_protocol(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primia.infer.engine.REAL", world.engine)


def call(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done


def test_both_sides_hear_that_a_new_version_takes_the_stock_away(world: World) -> None:
    with world.owner() as owner:
        owner.stock(3)
    world.program = toy.program()
    with structlog.testing.capture_logs() as lines:
        world.restart_model()
    (line,) = [line for line in lines if line["event"] == "stock_discarded"]
    assert line["sessions"] == 3
    for told in (1, 0):  # once
        said: list[str] = []
        with DataOwner(world.root / "hospital", world.engine, notice=said.append):
            assert len(said) == told
    said.clear()


def test_what_a_new_version_took_away_is_on_the_screen(world: World) -> None:
    with world.owner() as owner:
        owner.stock(3)
    world.program = toy.program()
    world.restart_model()
    done = call("stock", "0", "--state", world.root / "hospital")
    assert "3 sessions stocked here had to be discarded" in done.stderr
    assert "primia infer stock 3" in done.stderr


def test_disk_space_of_material_is_shown_on_both_sides(world: World) -> None:
    state = ("--state", world.root / "hospital")
    found = json.loads(call("stock", "20", "--json", *state).stdout)
    files = [p.stat().st_size for p in (world.root / "model" / "material").iterdir()]
    assert len(files) == 20
    assert 0.8 * sum(files) < found["model_owner_bytes"] <= sum(files)
    here = (world.root / "hospital" / "material").iterdir()
    assert found["bytes_here"] == sum(p.stat().st_size for p in here)
    (row,) = [
        r
        for r in json.loads(call("roster", "--json", "--state", world.root / "model").stdout)
        if r["name"] == "hospital"
    ]
    assert row["material_bytes"] == sum(files)
    assert "MB at the model owner" in call("stock", "1", *state).stdout.replace("\n", " ")


def test_discarding_says_how_many_and_stocking_nothing_says_nothing_of_it(world: World) -> None:
    state = ("--state", world.root / "hospital")
    call("stock", "1", *state)
    assert "ready: 1 session of 1 film\n" in call("stock", "0", *state).stdout
    found = call("stock", "0", "--discard", *state).stdout
    assert "discarded 1 session\n" in found
    assert "stocked" not in found
