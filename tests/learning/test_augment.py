import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import ConfigError
from primia.learning import augment as module
from primia.learning.augment import augment


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def film(size=32):
    """A bright bar left of the middle on a ramp: no symmetry, some contrast."""
    pixels = torch.arange(size).repeat(size, 1) * 2
    pixels[8:24, 6:12] = 220
    return pixels.to(torch.uint8)


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(0, 4),
    copies=st.integers(1, 5),
    h=st.integers(4, 20),
    w=st.integers(4, 20),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    seed=st.integers(0, 2**31),
)
def test_each_film_leads_its_own_views_and_no_grey_value_is_made_up(n, copies, h, w, dtype, seed):
    films = torch.randint(0, 256, (n, h, w), generator=rng(seed)).to(dtype)
    before = films.clone()
    views = augment(films, copies, rng(seed))
    assert views.shape == (n * copies, h, w)
    assert views.dtype == dtype
    assert torch.equal(films, before)
    assert torch.equal(views[::copies], films)
    if n:
        rows = views.view(n, copies, -1).double()
        own = films.view(n, 1, -1).double()
        assert (rows.amin(2) >= own.amin(2) - 1e-3).all()
        assert (rows.amax(2) <= own.amax(2) + 1e-3).all()


def test_views_differ_from_the_film_and_from_each_other_and_follow_the_seed():
    films = film()[None].repeat(2, 1, 1)  # twice the same film: its views differ all the same
    views = augment(films, 4, rng(1))
    different = {bytes(view.numpy().tobytes()) for view in views}
    assert len(different) == 1 + 2 * 3
    assert torch.equal(views, augment(films, 4, rng(1)))
    assert not torch.equal(views, augment(films, 4, rng(2)))


def test_one_films_views_do_not_depend_on_the_other_films():
    films = torch.randint(0, 256, (3, 16, 16), generator=rng()).to(torch.float32)
    views = augment(films, 3, rng(5))
    films[1:] = 7
    assert torch.equal(augment(films, 3, rng(5))[:3], views[:3])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("grey", [0, 40, 255])
def test_blank_films_stay_blank(grey, dtype):
    views = augment(torch.full((2, 9, 9), grey, dtype=dtype), 3, rng())
    assert torch.allclose(views, torch.full((6, 9, 9), grey, dtype=dtype), rtol=1e-6)


def test_without_a_shift_or_turn_nothing_moves():
    films = torch.rand(3, 12, 17)
    assert torch.allclose(module._moved(films, torch.zeros(3, 3)), films, atol=1e-5)


@pytest.mark.parametrize(("h", "w"), [(50, 50), (50, 100), (100, 50)])
def test_the_largest_shift_is_six_percent_of_the_side_and_repeats_the_edge(h, w):
    ramp = torch.arange(float(w)).expand(1, h, w)
    moved = module._moved(ramp, torch.tensor([[0.0, 1.0, 0.0]]))
    assert torch.allclose(moved, (ramp + 0.06 * w).clamp_max(w - 1), atol=1e-3)
    ramp = torch.arange(float(h))[:, None].expand(1, h, w)
    moved = module._moved(ramp, torch.tensor([[0.0, 0.0, -1.0]]))
    assert torch.allclose(moved, (ramp - 0.06 * h).clamp_min(0), atol=1e-3)


@pytest.mark.parametrize(("h", "w"), [(101, 101), (61, 121), (121, 61)])
def test_the_largest_turn_is_seven_degrees_on_films_of_any_shape(h, w):
    y = (torch.arange(h) - h // 2).float()[:, None].expand(h, w)
    x = (torch.arange(w) - w // 2).float().expand(h, w)
    turn = torch.tensor([[1.0, 0.0, 0.0]])
    upright, level = (torch.exp(-across.square() / 4) for across in (x, y))  # lines, in the middle
    for line, across, dim, middle in ((upright, x, 1, h // 2), (level, y, 0, w // 2)):
        turned = module._moved(line[None], turn)[0]
        place = (turned * across).sum(dim) / turned.sum(dim)
        slope = place[middle - 20 : middle + 21].diff().mean().item()
        assert abs(math.degrees(math.atan(abs(slope))) - 7) < 0.2


def test_exposure_survives_the_removal_of_mean_and_deviation():
    films = film().float()[None].repeat(2, 1, 1)
    exposed = module._exposed(films, torch.tensor([-1.0, 1.0])).flatten(1)
    own = (exposed - exposed.mean(1, keepdim=True)) / exposed.std(1, keepdim=True)
    assert (own[0] - own[1]).abs().mean() > 0.02
    assert exposed[0].mean() > films[0].mean() > exposed[1].mean()


def test_the_heart_stays_on_its_side():
    films = film().float()[None]
    films[:, :, 16:] = 0
    views = augment(films, 200, rng(3))
    assert (views[:, :, :16].sum((1, 2)) > views[:, :, 16:].sum((1, 2))).all()


def test_no_views_at_all_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        augment(torch.zeros(1, 8, 8), 0, rng())
