"""What leaves the coordinator at the end: report, result, plan, models with named tensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from coordinator.record import study_record
from coordinator.rows import ModelRow
from coordinator.state import CoordinatorState
from primia.config import StudyPlan, plan_from_canonical
from primia.errors import StateError
from primia.federation.optimiser import unpack_weights
from primia.learning.models import build_for, load_flat
from primia.outcome import write_report
from primia.storage.blobs import Blobs


def write_export(state: CoordinatorState, home: Path, folder: Path) -> list[Path]:
    """Write the export of the study as it stands; returns the files written.

    An older export of the same study is replaced; what `primia report` had put into its report
    stays. Raises StateError when nothing was started, when the folder holds another study's export,
    or cannot be written, DataError when the report there is damaged.
    """
    record = study_record(state)
    pinned = state.study()
    assert pinned is not None
    plan = plan_from_canonical(pinned.plan)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_anothers(folder, plan.study)
        written = write_report(record, plan, folder)
        text = json.dumps(plan.model_dump(mode="json"), indent=2)
        (folder / "plan.json").write_text(text + "\n", encoding="utf-8")
        written.append(folder / "plan.json")
        blobs = Blobs(home / "blobs")
        for name, model in kept_models(state).items():
            _save(folder / name, model, plan, blobs, pinned.parameters)
            written.append(folder / name)
    except OSError as err:
        raise StateError(
            f"cannot write to {folder}: {err.strerror}; choose another folder"
        ) from err
    state.audit.append("exported", files=[path.name for path in written])
    return written


def _refuse_anothers(folder: Path, study: str) -> None:
    """Two studies exported to one folder would leave files of both in it."""
    try:
        there = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["study"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        there = "something else"
    if there != study:
        raise StateError(f"{folder} holds the export of {there}; choose another folder")


def kept_models(state: CoordinatorState) -> dict[str, ModelRow]:
    """The newest model, or the one that the study returned to from it, and the best, by file."""
    models = {m.number: m for m in state.models()}
    newest = models[max(models)]
    last = newest if newest.accepted is not False else state.accepted_model()
    kept = {"model-last.safetensors": last}
    best = study_record(state).best
    if best is not None:
        kept["model-best.safetensors"] = models[best]
    return kept


def _save(path: Path, row: ModelRow, plan: StudyPlan, blobs: Blobs, parameters: int) -> None:
    """One model as safetensors with the network's own tensor names, and the plan in its header."""
    terms = plan.model
    model = build_for(terms)
    load_flat(model, unpack_weights(blobs.get(row.digest), parameters))
    tensors = {k: np.ascontiguousarray(v.numpy()) for k, v in model.state_dict().items()}
    metadata = {
        "format": "primia-model/1",
        "model": terms.name,
        "input_size": str(terms.input_size),
        "channels": str(terms.channels),
        "classes": json.dumps(list(terms.classes)),
        "round": str(row.number),
        "study": plan.study,
        "terms": terms.model_dump_json(),  # all that builds the network again
    }
    save_file(tensors, path, metadata=metadata)
