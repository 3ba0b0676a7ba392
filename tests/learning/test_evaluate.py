import numpy as np
import pytest
import torch

from primia.errors import PeerError
from primia.learning.evaluate import evaluate, predict
from primia.learning.local import to_input
from primia.learning.metrics import MetricLayout
from primia.learning.models import build, flatten

SHAPE = {"input_size": 28, "channels": 1, "classes": 2}


@pytest.fixture
def weights():
    return flatten(build("small-cnn", **SHAPE, seed=3))


def test_predictions_are_those_of_the_model_film_by_film(terms, films, weights):
    model = build("small-cnn", **SHAPE, seed=3)
    with torch.no_grad():
        one_by_one = [model(to_input(torch.from_numpy(f[None]), 1, "cpu")) for f in films.pixels]
    found = predict(terms, weights, films)
    assert np.allclose(found, torch.cat(one_by_one).numpy(), atol=1e-5)


def test_every_film_is_counted_once(terms, films, weights):
    layout = MetricLayout(2, 32)
    counts = evaluate(terms, weights, films, layout)
    assert counts.dtype == np.uint32
    assert counts[-1] == len(films)
    assert counts[:4].reshape(2, 2).sum(1).tolist() == np.bincount(films.labels).tolist()


def test_no_films_count_as_zeros(terms, films, weights):
    layout = MetricLayout(2, 32)
    assert not evaluate(terms, weights, films.select(films.labels > 5), layout).any()


def test_weights_that_do_not_fit_are_refused(terms, films, weights):
    with pytest.raises(PeerError):
        evaluate(terms, weights[1:], films, MetricLayout(2, 32))
