"""What the commands say beside an answer: what is gone, what takes space, what is left to do."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import structlog
from rich.console import Console
from typer.testing import CliRunner, Result

from primia.cli.infer import app
from primia.errors import ConfigError, IdentityError, StateError
from primia.identity.certificate import Role, check_validity
from primia.infer import answers, home, overview
from primia.infer.data_owner import DataOwner
from primia.inference.messages import Prediction
from primia.types import SiteId
from tests.inference_service import toy
from tests.inference_service.conftest import World

HOSPITAL = SiteId("hospital")


@pytest.fixture(autouse=True)
def _toy_protocol(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primia.infer.engine.REAL", world.engine)
    structlog.reset_defaults()  # a command of an earlier test logs nothing


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
    assert "primia infer stock N" in done.stderr


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


def invite(world: World, name: str, *options: str, role: str = "data-owner") -> Result:
    address = f"127.0.0.1:{world.model_port}"
    model = ("--state", world.root / "model")
    return call("invite", role, name, "--address", address, *options, *model)


def roster(world: World) -> dict[str, dict[str, object]]:
    found = json.loads(call("roster", "--json", "--state", world.root / "model").stdout)
    return {row["name"]: row for row in found}


def test_a_second_code_says_that_the_first_is_void_and_what_may_be_asked(world: World) -> None:
    first = invite(world, "clinic", "--films", "30")
    assert "void" not in first.stderr
    assert "30 films in all (0 asked), and 200 in any 24 hours" in first.stdout
    again = invite(world, "clinic")
    assert "the code that was given out for clinic before is void" in again.stderr
    assert "30 films in all" in again.stdout, "the budget of before holds"


def test_the_roster_shows_codes_that_were_not_used(world: World) -> None:
    invite(world, "clinic")
    assert roster(world)["clinic"]["state"] == "invited"
    assert roster(world)["hospital"]["state"] == "enrolled"
    shown = call("roster", "--state", world.root / "model").stdout
    assert re.search(r"clinic  .* invited", shown), "on one line"
    world.enrol("clinic")
    assert roster(world)["clinic"]["state"] == "enrolled"
    overview.strike(world.root / "model", SiteId("clinic"))
    assert roster(world)["clinic"]["state"] == "struck"


def test_a_data_owner_is_told_to_hear_the_dealers_fingerprint_from_the_dealer(
    world: World, tmp_path: Path
) -> None:
    assert "--dealer-fingerprint" in invite(world, "one", "--code-file", f"{tmp_path}/one").stdout
    warned = call("enrol", tmp_path / "one", "--state", tmp_path / "1")
    assert "enrolled as data owner one" in warned.stdout
    assert "next: primia infer stock" in warned.stdout
    assert "primia infer trust FINGERPRINT" in warned.stderr
    invite(world, "two", "--code-file", f"{tmp_path}/two")
    mark = ":".join(["ab"] * 32)
    given = ("--dealer-fingerprint", mark)
    assert call("enrol", tmp_path / "two", *given, "--state", tmp_path / "2").stderr == ""


def test_messages_name_the_model_owner_and_no_study(world: World, tmp_path: Path) -> None:
    study = re.compile(r"coordinator|worker|study|\bsite\b|hospital[^-]")
    said = []
    overview.strike(world.root / "model", SiteId("hospital"))
    with pytest.raises(IdentityError, match="ask the model owner's operator") as struck:
        world.owner()
    said.append(struck)
    made = home.invite(
        world.root / "model", "data-owner", SiteId("clinic"), f"127.0.0.1:{world.model_port}"
    )
    home.enrol(tmp_path / "a", made.invitation.code(), None)
    with pytest.raises(IdentityError, match="tell the model owner's operator") as used:
        home.enrol(tmp_path / "b", made.invitation.code(), None)
    said.append(used)
    overview.strike(world.root / "model", SiteId("clinic"))
    world.enrol("clinic")
    with pytest.raises(IdentityError, match="copy of an older folder") as older:
        DataOwner(tmp_path / "a", world.engine)
    said.append(older)
    for command in (("init", "chest", "--state", f"{world.root}/model"),):
        done = CliRunner().invoke(app, command)
        assert isinstance(done.exception, StateError)
        assert not study.search(str(done.exception)), done.exception
    done = CliRunner().invoke(app, ["invite", "data-owner", "Ward B", "--address", "a:1"])
    assert isinstance(done.exception, ConfigError)
    assert not study.search(str(done.exception)), done.exception
    old = home.load(tmp_path / "a", Role.SITE).certificate
    with pytest.raises(IdentityError, match="ask for a new invitation") as expired:
        check_validity(old, "our certificate", now=home.now() + timedelta(days=9999))
    said.append(expired)
    for error in said:
        text = str(error.value).replace("hospital was struck", "")
        assert not study.search(text), text


def test_a_table_of_answers_names_films_by_what_tells_them_apart(tmp_path: Path) -> None:
    def shown(*films: Path) -> str:
        found = answers.answered(films, ("well", "ill"), np.eye(2)[[0] * len(films)])
        console = Console(width=80, file=io.StringIO())
        console.print(answers.table(found, "class"))
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    deep = tmp_path / ("folder" * 12)
    assert str(tmp_path)[:9] not in shown(deep / "film.png")
    two = shown(deep / "a" / "film.png", deep / "b" / "film.png")
    assert [line.split()[0] for line in two.splitlines()[1:]] == ["a/film.png", "b/film.png"]


def test_what_an_answer_cost_is_shown_when_asked_for(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("primia.infer.films.read", lambda *_: toy.films())
    answer = Prediction("class", np.eye(2)[[0]])
    monkeypatch.setattr(DataOwner, "ask", lambda *_: [answer])
    arguments = ("ask", tmp_path / "film.png", "--state", world.root / "hospital")
    assert "seconds" not in call(*arguments).stdout
    assert "messages" in call(*arguments, "--costs").stdout


def test_the_logs_of_the_servers_name_data_owners(world: World) -> None:
    with structlog.testing.capture_logs() as lines:
        world.enrol("clinic")
        with world.owner("clinic") as owner:
            owner.stock(1)
            owner.ask(toy.films(), 1)
    assert {"enrolled", "dealing", "stocked", "delivered", "prediction_ended"} <= {
        line["event"] for line in lines
    }
    assert all("site" not in line for line in lines)
    assert [line["who"] for line in lines if line["event"] == "enrolled"] == ["data owner clinic"]
