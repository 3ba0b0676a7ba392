"""`primia infer prepare`: make the file that `primia infer serve` serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from primia.cli.console import err, note, out, print_json

if TYPE_CHECKING:
    from primia.imaging.dataset import Pool
    from primia.inference.prepare import Prepared, Wanted
    from primia.inference.program import Program
    from primia.inference.trained import Network

MOST_FILMS = 256  # to calibrate on; more change a range by next to nothing


class Answers(StrEnum):
    """What the data owner learns."""

    CLASS = "class"
    PROBABILITIES = "probabilities"
    LOGITS = "logits"


def prepare(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A study's model-best.safetensors.")
    ],
    out_file: Annotated[Path, typer.Option("--out", metavar="FILE", help="New file for `serve`.")],
    films: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="To calibrate on: any folder of films, CSV or NPZ."),
    ] = None,
    synthetic: Annotated[bool, typer.Option(help="Calibrate on drawn films instead.")] = False,
    answer: Annotated[Answers, typer.Option(help="What is answered.")] = Answers.CLASS,
    allow_logits: Annotated[
        bool, typer.Option("--allow-logits", help="Exact logits help to copy a model: say so.")
    ] = False,
    network: Annotated[
        str | None, typer.Option(help="torchvision's resnet18, -34 or -50, for other weights.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="With --network: names of the classes, by commas.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=28, max=512, help="With --network: edge of a film, pixels.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="With --network: means of pixels from 0 to 1, by commas.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="With --network: their deviations.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Model owner: turn a trained network into a program and fixed-point weights for `serve`.

    Films set the range of each layer. The ranges are public, as powers of two; the weights stay.
    """
    import os

    from primia.errors import ConfigError
    from primia.identity.keyfile import store
    from primia.inference import model_file
    from primia.inference.prepare import prepare as make

    if answer is Answers.LOGITS and not allow_logits:
        raise ConfigError(
            "--answer logits: exact logits let a data owner copy the model and ask who trained it; "
            "answer class or probabilities, or say --allow-logits as well"
        )
    if out_file.exists():
        raise ConfigError(f"{out_file}: is there already; name a new file")
    options = {"--classes": classes, "--size": size, "--mean": mean, "--std": std}
    trained, wanted, side = (
        _exported(model, answer, options)
        if network is None
        else _resnet(model, network, answer, options)
    )
    pool = _films(films, synthetic, wanted.classes, side)
    labelled = {name: int((pool.labels == i).sum()) for i, name in enumerate(wanted.classes)}
    for text in (*pool.warnings, *_absent(labelled, len(pool.labels))):
        note(text)
    with _progress() as tell:
        made = make(trained, wanted, pool.pixels, model_version=os.urandom(16).hex(), progress=tell)
    store(out_file, model_file.pack(made.program, made.weights))
    if json:
        print_json(_as_json(made, labelled, out_file))
    else:
        _show(made, labelled)
        out.print(
            f"written to {out_file}; it holds the weights, keep it here",
            soft_wrap=True, markup=False,
        )  # fmt: skip
        out.print(
            "once it is served, what data owners have stocked for another version is discarded",
            soft_wrap=True,
        )


def _exported(path: Path, answer: Answers, options: dict[str, Any]) -> tuple[Network, Wanted, int]:
    from primia.errors import ConfigError
    from primia.inference.prepare import Wanted
    from primia.inference.trained import read_export

    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{given[0]}: goes with --network; a study's export knows its own")
    model, terms = read_export(path)
    return model, Wanted(terms.classes, answer.value, terms.channels), terms.input_size


def _resnet(
    path: Path, network: str, answer: Answers, options: dict[str, Any]
) -> tuple[Network, Wanted, int]:
    from primia.errors import ConfigError
    from primia.inference.prepare import Wanted
    from primia.inference.trained import read_resnet

    for name in ("--classes", "--size"):
        if options[name] is None:
            raise ConfigError(f"{name}: needed with --network; the weights do not say it")
    model, channels, count = read_resnet(path, network)
    names = tuple(name.strip() for name in options["--classes"].split(","))
    if len(names) != count:
        raise ConfigError(f"--classes: {len(names)} names for {count} classes; name each once")
    mean, std = (_numbers(name, options[name], channels) for name in ("--mean", "--std"))
    if bool(mean) != bool(std):
        raise ConfigError("--mean and --std go together")
    wanted = Wanted(names, answer.value, channels, "fixed" if mean else "film", mean, std)
    return model, wanted, options["--size"]


def _numbers(name: str, text: str | None, channels: int) -> tuple[float, ...]:
    from primia.errors import ConfigError

    if text is None:
        return ()
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as err:
        raise ConfigError(f"{name} {text}: not numbers by commas, such as 0.485,0.456") from err
    if len(values) == 1:
        values *= channels
    low = 1e-3 if name == "--std" else -1e3
    if len(values) != channels or not all(low <= v <= 1e3 for v in values):
        raise ConfigError(f"{name} {text}: need one number from {low:g} to 1000 for each channel")
    return values


def _films(path: Path | None, synthetic: bool, classes: tuple[str, ...], side: int) -> Pool:
    """Labels are -1 for films of no class. Raises ConfigError, DataError."""
    import numpy as np

    from primia.errors import ConfigError

    if (path is None) != synthetic:
        raise ConfigError("give --films DATA with films as the model will see, or --synthetic")
    if path is None:
        from primia.imaging.dataset import Pool
        from primia.imaging.synth import synthesise

        drawn = synthesise(64, size=side, seed=0)
        return Pool(drawn.pixels, np.full(len(drawn), -1), drawn.patients.astype(np.str_)).select(
            np.arange(len(drawn)) < 64
        )
    from primia.imaging.division import source_of
    from primia.imaging.files import read_unlabelled
    from primia.imaging.readers import read_pool

    source = source_of(path)
    if source.kind == "folder":
        return read_unlabelled(path, classes, side, MOST_FILMS)
    source = source.model_copy(update={"every_film_its_own_patient": True})
    pool = read_pool(source, classes=classes, input_size=side)
    step = -(-len(pool.labels) // MOST_FILMS) or 1
    return pool.select(np.arange(len(pool.labels)) % step == 0)


def _absent(labelled: dict[str, int], films: int) -> list[str]:
    """A warning where every film has a label and some class has no film."""
    absent = [name for name, count in labelled.items() if not count]
    if not absent or sum(labelled.values()) < films:
        return []
    return [f"no film of {', '.join(absent)}: its values may not fit; add films of every class"]


@contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """A bar on the terminal, if there is one."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("calibrating", total=1.0)
        yield lambda share: bar.update(task, completed=share)


def _rows(made: Prepared) -> list[dict[str, Any]]:
    from primia.inference.layout import compared_bits

    bits = compared_bits(made.program)
    return [
        {"layer": node.name, "operation": node.op.kind, "shape": list(node.shape),
         "largest": largest, "bound": node.bound, "compared_bits": bits[i]}
        for i, (node, largest) in enumerate(zip(made.program.nodes, made.largest, strict=True))
    ]  # fmt: skip


def _material(program: Program) -> int:
    """Bytes that a session of one film takes at the model owner, by dealing one."""
    import os

    from primia.inference.dealing import deal

    mask, data, model = (os.urandom(32) for _ in range(3))
    return sum(len(piece) for piece in deal(program, mask, data, model))


def _as_json(made: Prepared, labelled: dict[str, int], path: Path) -> dict[str, Any]:
    return {
        "file": str(path),
        "program": made.program.digest,
        "model_version": made.program.model_version,
        "answer": made.program.answer,
        "classes": list(made.program.classes),
        "films": made.films,
        "films_of_class": labelled,
        "material_bytes": _material(made.program),
        "logit_error": made.fidelity.error,
        "same_class": [made.fidelity.same_class, made.fidelity.films],
        "layers": _rows(made),
    }


def _show(made: Prepared, labelled: dict[str, int]) -> None:
    from rich.table import Table

    table = Table()
    for column in ("layer", "operation", "shape"):
        table.add_column(column)
    for column in ("largest", "bound", "compared bits"):
        table.add_column(column, justify="right")
    for row in _rows(made):
        shape = "x".join(str(n) for n in row["shape"])
        bits = "" if row["compared_bits"] is None else str(row["compared_bits"])
        largest = f"{row['largest']:.3g}"
        bound = f"{row['bound']:g}"
        table.add_row(row["layer"], row["operation"], shape, largest, bound, bits)
    out.print(table)
    seen = made.fidelity
    of_class = [f"{count} {name}" for name, count in labelled.items()]
    if rest := made.films - sum(labelled.values()):
        of_class.append(f"{rest} of no class")
    out.print(f"calibrated on {made.films} films: {', '.join(of_class)}", markup=False)
    out.print(f"logits within {seen.error:.1e} of the network's")
    out.print(f"same class on {seen.same_class} of {seen.films} films compared")
    out.print(
        f"each film stocked will take {_material(made.program) / 1e6:.1f} MB where it is served"
    )
    out.print(f"program {made.program.digest}", soft_wrap=True)
