"""Films are decoded in children: what one does to its decoder, the others do not notice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from film_files import encoded, film

from primia.errors import DataError
from primia.imaging import child, pictures, sandbox
from primia.imaging.child import decode
from primia.imaging.pictures import Defect, Picture
from primia.imaging.sandbox import Sandbox

SIZE = 32

# A decoder with a hole: what a film says in these words, it does.
BROKEN = """
import os, time
from primia.imaging import child, pictures
right = pictures.decode
def decode(raw, size):
    if raw.startswith(b"die"): os.kill(os.getpid(), 9)
    if raw.startswith(b"hang"): time.sleep(600)
    if raw.startswith(b"spin"):
        while True: pass
    if raw.startswith(b"eat"): bytearray(64 << 30)
    if raw.startswith(b"talk"): os.write(0, b"\\xff" * 8)
    if raw.startswith(b"write"): open(raw[6:].decode(), "w").write("x" * 100)
    if raw.startswith(b"once") and not os.path.exists(raw[5:].decode()):
        os.mkdir(raw[5:].decode())
        os.kill(os.getpid(), 9)
    if raw.startswith(b"once"): raw = open(os.environ["PRIMIA_GOOD"], "rb").read()
    return right(raw, size)
pictures.decode = decode
child.CPU_S = 1
child.main()
"""


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.png"
    path.write_bytes(encoded(film(1, height=SIZE, width=SIZE)))
    return path


@pytest.fixture
def read(tmp_path, monkeypatch, good):
    """Decode files of these contents in one child with a broken decoder, a good film last."""
    monkeypatch.setattr(sandbox, "COMMAND", (sys.executable, "-P", "-c", BROKEN))
    environment = sandbox._environment() | {"PRIMIA_GOOD": str(good)}
    monkeypatch.setattr(sandbox, "_environment", lambda: environment)

    def call(*contents, wall_s=120.0):
        paths = []
        for number, content in enumerate(contents):
            paths.append(tmp_path / f"{number}.png")
            paths[-1].write_bytes(content)
        with Sandbox(1, wall_s=wall_s) as box:
            *found, last = box.decode([(path, False) for path in [*paths, good]], SIZE)
        assert np.array_equal(last.pixels, film(1, height=SIZE, width=SIZE))
        return found

    return call


@pytest.mark.parametrize("evil", [b"die", b"eat", b"spin", b"talk"])
def test_a_film_that_kills_its_child_is_quarantined_and_the_next_is_read(read, evil):
    assert read(evil) == [Defect.LIMITS]


def test_a_film_that_hangs_costs_its_time_and_no_more(read):
    assert read(b"hang", wall_s=3.0) == [Defect.LIMITS]


def test_a_child_that_died_of_something_else_is_given_a_second_try(read, tmp_path):
    (result,) = read(b"once " + str(tmp_path / "mark").encode())
    assert isinstance(result, Picture)


def test_a_child_cannot_write_a_file(read, tmp_path):
    read(b"write " + str(tmp_path / "stolen").encode())
    assert (tmp_path / "stolen").stat().st_size == 0


def test_films_come_back_in_the_order_given(tmp_path):
    paths = []
    for number in range(40):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encoded(film(number, height=SIZE, width=SIZE)))
    with Sandbox(2) as box:
        found = list(box.decode([(path, False) for path in paths], SIZE))
    for number, picture in enumerate(found):
        assert np.array_equal(picture.pixels, film(number, height=SIZE, width=SIZE))


def test_what_is_no_file_is_named_as_such_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    paths = [tmp_path / "none.png", tmp_path, tmp_path / "fifo.png"]
    with Sandbox(1) as box:
        found = list(box.decode([(p, False) for p in paths], SIZE))
    assert found == [Defect.MISSING, Defect.NO_FILE, Defect.NO_FILE]


def test_a_file_above_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(child, "MAX_FILE_BYTES", 100)
    assert decode(encoded(film(1)), SIZE) is Defect.LARGE


def test_children_end_with_the_sandbox_and_with_a_parent_that_was_killed(good):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from primia.imaging.sandbox import Sandbox\n"
        "with Sandbox(1) as box:\n"
        "    list(box.decode([(Path(sys.argv[1]), False)], 32))\n"
        "    print(box._free.queue[0]._process.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(good)], stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    for _ in range(600):
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its parent")


def test_a_child_gets_nothing_of_the_workers_environment(monkeypatch):
    monkeypatch.setenv("PRIMIA_SECRET", "canary")
    assert "canary" not in str(sandbox._environment())


def test_a_child_that_does_not_start_is_an_error_that_says_how_to_see_why(good, monkeypatch):
    monkeypatch.setattr(sandbox, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with Sandbox(1) as box, pytest.raises(DataError, match="does not start; run"):
        list(box.decode([(good, False)], SIZE))


def test_the_largest_film_allowed_fits_into_a_childs_memory(tmp_path):
    edge = int(pictures.MAX_PIXELS**0.5)
    path = tmp_path / "large.png"
    path.write_bytes(encoded((np.arange(edge * edge) % 4096).astype(np.uint16).reshape(edge, edge)))
    with Sandbox(1) as box:
        (picture,) = box.decode([(path, False)], SIZE)
    assert isinstance(picture, Picture), picture
