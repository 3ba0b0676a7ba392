"""Encrypted prediction in containers, from model file to answers: `make infer-compose-demo`.

Random weights and drawn films; fails unless every answer is the one that the fixed-point network
gives in the clear. Needs primia beside it, which makes the model file and the plain answers.
`prediction.py down` removes what an interrupted run left. PRIMIA_KEEP=1 leaves all up.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from project import Failed, Project, main

PROJECT = Project("primia-infer-demo", ["inference/compose.yaml"], ["hospital"])
CONTAINER_USER = 10001
EDGE, FILMS = 64, 2


def demo() -> None:
    """Prepare, build, enrol, stock, ask twice, compare, down. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="primia-infer-") as name:
        wanted = _prepare(Path(name))
        os.environ["PRIMIA_MODEL_FOLDER"] = f"{name}/model"
        os.environ["PRIMIA_FILMS_FOLDER"] = f"{name}/films"
        try:
            print("building the image; minutes when the wheels are new", flush=True)
            PROJECT.compose("build", "dealer", quiet=True)
            _predict(wanted)
        finally:
            if not os.environ.get("PRIMIA_KEEP"):
                PROJECT.down()


def _predict(wanted: dict[str, str]) -> None:
    try:
        # The second time all was done before. `run` enrols the hospital, as nothing else needs it.
        for sessions in ("1", "0"):
            PROJECT.compose("up", "--detach", "--no-build", "dealer", quiet=True)
            stock = ("stock", sessions, "--films", str(FILMS))
            PROJECT.compose("run", "--rm", "-T", "hospital", *stock, quiet=True)
    except Failed:
        PROJECT.compose("logs", "--tail", "20")
        raise
    print("all enrolled, one session stocked", flush=True)
    # The first session is stocked, the other is dealt while it waits.
    for _ in range(2):
        answer = json.loads(PROJECT.run("hospital", "ask", *wanted, "--json"))
        found = {f["film"]: f["class"] for f in answer["films"]}
        for film, shown in found.items():
            print(f"{film}: {shown}; in the clear: {wanted[film]}", flush=True)
        if found != wanted:
            raise Failed("encrypted and plain answers differ")


def _prepare(folder: Path) -> dict[str, str]:
    """A model file, films, and the answer to each of them as the container names it."""
    from primia.infer.demo import drawn_films, random_model
    from primia.infer.films import read
    from primia.inference import model_file
    from primia.inference.reference import fixed

    (folder / "model").mkdir()
    file = folder / "model" / "model.safetensors"
    random_model(file, EDGE)
    if os.getuid() == 0:
        os.chown(file, CONTAINER_USER, CONTAINER_USER)
    else:
        os.environ.setdefault("PRIMIA_USER", f"{os.getuid()}:{os.getgid()}")
    films = drawn_films(folder / "films", EDGE, FILMS)
    program, weights = model_file.read(file)
    plain = fixed(program, weights, read(films, program)).argmax(axis=1)
    return {
        f"/films/{film.name}": program.classes[index]
        for film, index in zip(films, plain.tolist(), strict=True)
    }


if __name__ == "__main__":
    main(PROJECT.down if sys.argv[1:] == ["down"] else demo)
