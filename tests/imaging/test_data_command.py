import json

import numpy as np
import pytest
from PIL import Image

from primia.cli.console import run
from primia.cli.data import app
from primia.identity import keyfile
from primia.imaging.quarantine import pseudonym

PLAN = """
study: chest
model: {name: small-cnn, input_size: 28, classes: [normal, bacterial, viral]}
sites: [a, b, c]
rounds: 3
training: {patient_sampling_rate: 0.1, local_steps: 3, expected_patients: 10, learning_rate: 0.1}
privacy: {delta: 0.0001, noise_multiplier: 1.0}
"""
SITE = """
data: {kind: %s, path: %s}
caps: {max_epsilon: 8.0, max_delta: 0.001}
"""


@pytest.fixture
def primia_data(monkeypatch, capsys):
    """Run `primia data ...`; gives exit code, output, errors."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["data", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            run(app)
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture
def site(tmp_path, primia_data):
    """A plan and a site file over synthetic films of the form asked for."""
    (tmp_path / "plan.yaml").write_text(PLAN)

    def make(form, path):
        words = ("synth", tmp_path / "films", "--patients", 50, "--sites", 1, "--size", 28)
        assert primia_data(*words, "--form", form)[0] == 0
        (tmp_path / "site.yaml").write_text(SITE % (form, f"films/site-1{path}"))
        return ("check", tmp_path / "site.yaml", "--plan", tmp_path / "plan.yaml")

    return make


@pytest.mark.parametrize(
    ("form", "path"), [("npz", "/films.npz"), ("csv", "/films.csv"), ("folder", "")]
)
def test_synthetic_films_of_every_form_pass_the_check(site, primia_data, tmp_path, form, path):
    code, out, _ = primia_data(*site(form, path))
    assert code == 0
    assert all(word in out for word in ("patients", "bacterial", "quarantined: 0"))
    assert (tmp_path / "films" / "contact-sheet.png").stat().st_size > 1000


def test_the_check_counts_a_truncated_film_in_one_line(site, primia_data, tmp_path):
    words = site("csv", "/films.csv")
    damaged = tmp_path / "films" / "site-1" / "films" / "00003.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    code, out, _ = primia_data(*words)
    assert code == 0
    assert "quarantined: 1" in out
    assert "line 5 (truncated or damaged)" in out
    assert "00003" not in out
    key = tmp_path / "keys" / "split.key"
    keyfile.store(key, b"k" * 32)
    code, out, _ = primia_data(*words, "--rejects", "--key", key, "--json")
    (reject,) = json.loads(out)["rejects"]
    assert reject == {
        "film": pseudonym("films/00003.png", b"k" * 32),
        "where": "line 5",
        "reason": "damaged",
        "file": str(damaged),
    }
    assert "damaged" in primia_data(*words, "--rejects")[1]


def test_the_list_of_rejects_comes_even_when_too_many_are_bad(site, primia_data, tmp_path):
    words = site("csv", "/films.csv")
    for path in sorted((tmp_path / "films" / "site-1" / "films").iterdir())[:15]:
        path.write_bytes(b"no film")
    assert primia_data(*words)[0] == 1
    code, out, _ = primia_data(*words, "--rejects", "--json")
    assert code == 0
    assert len(json.loads(out)["rejects"]) == 15


def test_a_sheet_shows_the_mean_and_films_of_each_class_and_is_for_its_owner(
    site, primia_data, tmp_path
):
    _, site_file, *plan = site("folder", "")
    sheet = tmp_path / "sheet.png"
    assert primia_data("sheet", site_file, sheet, *plan)[0] == 0
    assert sheet.stat().st_mode & 0o777 == 0o600
    with Image.open(sheet) as picture:
        assert picture.size == (96 + 10 * 96, 3 * 96)
        row = np.asarray(picture)[:96, 96:]
    mean, first = row[:, :96].astype(float), row[:, 96:192].astype(float)
    assert np.corrcoef(mean.ravel(), first.ravel())[0, 1] > 0.7
    code, _, err = primia_data("sheet", site_file, sheet, *plan)
    assert code == 1
    assert "is there already" in err


def test_the_check_gives_json_for_scripts(site, primia_data):
    code, out, _ = primia_data(*site("npz", "/films.npz"), "--json")
    counts = json.loads(out)
    assert code == 0
    assert counts["train"]["patients"] + counts["validation"]["patients"] == 50
    assert counts["train"]["films"] == sum(
        counts["train"][c] for c in ("normal", "bacterial", "viral")
    )


def test_films_that_cannot_be_used_end_in_one_line_and_exit_code_1(site, primia_data, tmp_path):
    words = site("npz", "/films.npz")
    path = tmp_path / "films" / "site-1" / "films.npz"
    arrays = dict(np.load(path, allow_pickle=False))
    arrays["labels"][:] = 0
    np.savez(path, **arrays)
    code, _, err = primia_data(*words)
    assert code == 1
    assert err.startswith("error:")
    assert "at least 2 classes" in err
    assert err.count("\n") == 1


def test_a_wrong_site_file_is_refused(site, primia_data, tmp_path):
    words = site("npz", "/films.npz")
    (tmp_path / "site.yaml").write_text("data: {kind: npz, path: a.npz}\n")
    code, _, err = primia_data(*words)
    assert code != 0
    assert "missing key 'caps'" in err


def test_synthetic_films_do_not_overwrite_a_folder(primia_data, tmp_path):
    (tmp_path / "x").write_text("mine")
    code, _, err = primia_data("synth", tmp_path, "--patients", 5)
    assert code == 1
    assert "not empty" in err
