"""A hostile first layer reads films out of a masked sum, unless there is noise; none is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from primia.audit.films import Case, gallery_of
from primia.audit.imprint import (
    attack_imprint,
    check_layer,
    imprint_network,
    is_refused,
    read_imprint,
)
from primia.audit.networks import first_network
from primia.audit.release import Releases, Rows
from primia.errors import ConfigError
from primia.findings import Verdict
from tests.audit.scene import case


@pytest.fixture(scope="module")
def made() -> Case:
    return case(patients=300)


def test_a_film_alone_in_its_bin_is_read_exactly_and_films_together_are_not(made: Case) -> None:
    """The closed form against where each film falls, found with the measurement itself."""
    gallery = gallery_of(made.films, 0)
    model = imprint_network(gallery, 1, 3, bins=64)
    rows = Rows.of(made.films, gallery.index[:24])
    candidates = read_imprint(Releases(model, made.plan).plain(rows)).view(-1, 28, 28)
    inside = model[1](gallery.seen[:24].flatten(1)).detach()
    fires = (inside > 0) & (inside < 1)
    assert (fires.sum(1) <= 1).all()
    alone = [
        (f, int(b)) for f, row in enumerate(fires) for b in row.nonzero() if fires[:, b].sum() == 1
    ]
    assert len(alone) > 8
    for film, at in alone:
        torch.testing.assert_close(candidates[at].float(), gallery.seen[film], atol=1e-3, rtol=1e-3)
    empty = fires.sum(0) == 0
    assert bool((candidates[empty] == 0).all())
    together = [int(b) for b in range(64) if fires[:, b].sum() > 1]
    for at in together:
        far = (candidates[at].float() - gallery.seen[:24]).abs().amax((1, 2))
        assert bool((far > 0.05).all())


def test_films_are_read_out_of_the_masked_sum_but_not_out_of_noise(made: Case) -> None:
    """At the smallest noise a worker accepts, all else being the same. No luck finds a film."""
    finding = attack_imprint(made, films=48)
    plain, clipped = finding.figures["found_plain"], finding.figures["found_clipped"]
    assert isinstance(plain, int)
    assert isinstance(clipped, int)
    # Of 48 films in 512 bins 43.8 are alone on average, with a deviation under 3.
    assert plain >= 30
    assert clipped >= 30
    assert finding.figures["found_as_planned"] == 0
    assert finding.verdict is Verdict.HELD


def test_a_verdict_falls_when_a_worker_would_take_the_layer(
    made: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("primia.audit.imprint.is_refused", lambda *_: False)
    assert attack_imprint(made, films=6, bins=16).verdict is Verdict.FELL


def test_the_largest_layer_is_bounded_by_pixels_channels_and_bins() -> None:
    check_layer(256, 1, 512)
    check_layer(28, 3, 4096)
    for size, channels, bins in ((257, 1, 512), (256, 3, 512), (256, 1, 513)):
        with pytest.raises(ConfigError, match="fewer --bins"):
            check_layer(size, channels, bins)


def test_neither_a_plan_nor_weights_bring_the_layer_to_a_site(made: Case) -> None:
    model = imprint_network(gallery_of(made.films, 0), 1, 3, bins=16)
    assert is_refused(made.plan, model)
    assert not is_refused(made.plan, first_network(made.plan))  # these weights would be taken
    assert np.isfinite(sum(float(p.detach().sum()) for p in model.parameters()))
