import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from primia.imaging import patient_split
from primia.imaging.synth import CLASSES, synthesise, synthesise_sites


@pytest.fixture(scope="module")
def films():
    return synthesise(600, size=32, seed=1)


@pytest.fixture(scope="module")
def held_out(films):
    return patient_split(films.patients, 0.3, b"test")


def statistics(pixels):
    """What brightness alone can tell of a film: moments, percentiles, histogram."""
    flat = pixels.reshape(len(pixels), -1).astype(float)
    histograms = [np.histogram(film, 16, (0, 256))[0] for film in flat]
    percentiles = np.percentile(flat, [1, 5, 10, 25, 50, 75, 90, 95, 99], axis=1).T
    return np.c_[flat.mean(1), flat.std(1), percentiles, histograms]


def macro_auc(labels, scores):
    return roc_auc_score(labels, scores, multi_class="ovr", average="macro")


def test_global_brightness_does_not_tell_the_classes_apart(films, held_out):
    x = statistics(films.pixels)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(x[~held_out], films.labels[~held_out])
    assert macro_auc(films.labels[held_out], model.predict_proba(x[held_out])) < 0.75


def test_a_small_network_tells_the_classes_apart_by_shape(films, held_out):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.ReLU(),
                   nn.MaxPool2d(2)]  # fmt: skip
    net = nn.Sequential(*layers, nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))  # fmt: skip
    x = (torch.from_numpy(films.pixels).float()[:, None] / 255 - 0.4) / 0.25
    y, train = torch.from_numpy(films.labels), torch.from_numpy(np.flatnonzero(~held_out))
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(12):
        for batch in train[torch.randperm(len(train))].split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        scores = net(x[torch.from_numpy(held_out)]).softmax(1).numpy()
    assert macro_auc(films.labels[held_out], scores) > 0.9


def test_the_same_seed_draws_the_same_films_and_another_site_others():
    first, again = (synthesise(20, size=28, seed=5) for _ in range(2))
    other = synthesise(20, size=28, seed=5, site=1)
    assert np.array_equal(first.pixels, again.pixels)
    assert not {p.tobytes() for p in first.pixels} & {p.tobytes() for p in other.pixels}


def test_patients_have_one_class_and_one_to_four_films(films):
    assert films.patient_count == 600
    counts = np.bincount(films.patients)
    assert (counts.min(), counts.max()) == (1, 4)
    for patient in range(600):
        assert len(set(films.labels[films.patients == patient])) == 1


def test_films_of_one_patient_are_more_alike_than_films_of_two():
    films = synthesise(150, size=32, seed=2, classes=("normal",))
    x = films.pixels.reshape(len(films), -1).astype(float)
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    alike = x @ x.T / x.shape[1]
    same = films.patients[:, None] == films.patients[None, :]
    np.fill_diagonal(alike, np.nan)
    assert np.nanmean(alike[same]) > np.nanmean(alike[~same]) + 0.03


def test_sites_differ_in_exposure_and_class_mix():
    sites = synthesise_sites(150, sites=3, size=28, seed=0)
    brightness = [films.pixels.mean() for films in sites]
    assert max(brightness) - min(brightness) > 10
    commonest = [int(np.bincount(films.labels, minlength=3).argmax()) for films in sites]
    assert len(set(commonest)) > 1


def test_classes_may_be_named_in_any_order():
    films = synthesise(40, size=28, seed=0, classes=CLASSES[::-1])
    assert set(films.labels.tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="measles"):
        synthesise(5, size=28, seed=0, classes=("normal", "measles"))
