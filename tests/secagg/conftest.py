import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vectors():
    """Known answers, made without primia's code (tests/vectors/make_secagg_vectors.py)."""
    path = Path(__file__).parent.parent / "vectors" / "secagg.json"
    return json.loads(path.read_text())
