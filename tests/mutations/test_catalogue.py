"""The mutations fit the sources as they are; whether the suite notices them is another target's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.mutation import Mutation

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name.replace(" ", "-"))
def test_a_mutation_changes_one_place_that_is_there(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text()
    changed = mutation.applied_to(source)
    assert changed != source
    compile(changed, mutation.file, "exec")
