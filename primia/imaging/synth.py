"""Synthetic chest films, so that a demonstration and the tests need no download.

Not a simulator: a drawing of attenuation (torso, lungs, ribs, spine, heart, diaphragm, opacities)
with what matters for learning kept honest. A patient keeps his anatomy over his films, sites differ
in exposure and class mix, and the tone of every film is set without looking at its class, so that a
classifier has to find shapes: brightness alone says next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from primia.imaging.dataset import Films, Indices, Pixels

Grid = npt.NDArray[Any]  # float32, one plane per film: (n, size, size), or (n, 1, 1) for a number

CLASSES = ("normal", "bacterial", "viral")
FILMS_PER_PATIENT = (0.45, 0.30, 0.15, 0.10)  # share of patients with 1, 2, 3, 4 films
_KNOTS = 49  # quantiles that are set; with 13 of them, histograms still told 0.75 (AUC)
_BATCH = 64  # films drawn at a time; bounds the memory
_SUPERSAMPLED_BELOW = 128  # small films are drawn at twice the size, or thin ribs would alias


def synthesise(
    patients: int,
    *,
    size: int,
    seed: int,
    site: int = 0,
    classes: tuple[str, ...] = CLASSES,
) -> Films:
    """Films of one made-up hospital.

    patients: how many; each has one class and 1 to 4 films. size: edge in pixels. The same
    (seed, site) gives the same films; different sites share no patient. classes: any of `CLASSES`
    (bacterial is a dense patch in one lobe, viral a fine bilateral pattern), in any order.

    Raises ValueError for a class that cannot be drawn.
    """
    unknown = set(classes) - set(CLASSES)
    if unknown or patients < 1:
        raise ValueError(f"cannot draw {patients} patients of {sorted(unknown) or classes}")
    rng = np.random.default_rng([seed, site])
    kinds = np.array([CLASSES.index(name) for name in classes])
    label_of = rng.choice(len(classes), size=patients, p=_class_mix(site, len(classes)))
    count = rng.choice(len(FILMS_PER_PATIENT), size=patients, p=FILMS_PER_PATIENT) + 1
    owner: Indices = np.repeat(np.arange(patients), count)
    anatomy = Anatomy.draw(patients, rng).take(owner)
    pose = Pose.draw(len(owner), rng)
    labels = label_of[owner].astype(np.int64)
    pixels = np.empty((len(owner), size, size), np.uint8)
    for start in range(0, len(owner), _BATCH):
        part = slice(start, start + _BATCH)
        attenuation = _draw(anatomy.take(part), pose.take(part), kinds[labels[part]], size, rng)
        pixels[part] = _expose(attenuation, site, rng)
    return Films(pixels, labels, owner)


def synthesise_sites(
    patients: int, *, sites: int, size: int, seed: int, classes: tuple[str, ...] = CLASSES
) -> tuple[Films, ...]:
    """Films of several made-up hospitals with `patients` patients each."""
    return tuple(
        synthesise(patients, size=size, seed=seed, site=site, classes=classes)
        for site in range(sites)
    )


def _class_mix(site: int, classes: int) -> npt.NDArray[np.float64]:
    """Shares of the classes: each site has more of one class, in turn, and less of the others."""
    weights = np.ones(classes)
    weights[site % classes] += 0.6
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


class _Columns:
    """Dataclass of float32 columns (n, 1, 1), which broadcast against (n, size, size)."""

    @classmethod
    def _uniform(
        cls, n: int, rng: np.random.Generator, ranges: dict[str, tuple[float, float]]
    ) -> Self:
        columns = {
            k: rng.uniform(lo, hi, (n, 1, 1)).astype(np.float32) for k, (lo, hi) in ranges.items()
        }
        return cls(**columns)

    def take(self, index: Any) -> Self:
        """The rows at `index`."""
        names = [f.name for f in fields(self)]  # type: ignore[arg-type]
        return type(self)(**{name: getattr(self, name)[index] for name in names})


@dataclass(frozen=True)
class Anatomy(_Columns):
    """What all films of a patient share; lengths in half film widths."""

    body: Grid  # half width of the torso
    lung_centre: Grid  # distance of a lung's axis from the midline
    lung_width: Grid  # half width of a lung
    lung_top: Grid  # from the lungs' widest height up to the apex
    diaphragm: Grid  # height of the right dome
    heart: Grid  # radius
    heart_shift: Grid  # to the patient's left
    rib_count: Grid  # ribs over the film's height
    rib_slope: Grid
    rib_phase: Grid
    bone: Grid  # how strongly bone shows
    side: Grid  # lobar disease: below 0 the image's left lung
    lobe: Grid  # lobar disease: height of its centre
    extent: Grid  # disease: radius, or depth of the haze
    severity: Grid

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> Anatomy:
        """Anatomy of `n` patients."""
        return cls._uniform(n, rng, {
            "body": (0.90, 1.10), "lung_centre": (0.43, 0.49), "lung_width": (0.31, 0.38),
            "lung_top": (0.62, 0.78), "diaphragm": (0.36, 0.56), "heart": (0.28, 0.38),
            "heart_shift": (0.06, 0.16), "rib_count": (8.5, 11.5), "rib_slope": (0.25, 0.55),
            "rib_phase": (0, 1), "bone": (0.05, 0.11), "side": (-1, 1), "lobe": (-0.42, 0.28),
            "extent": (0.28, 0.42), "severity": (0.95, 1.3),
        })  # fmt: skip


@dataclass(frozen=True)
class Pose(_Columns):
    """What changes from film to film of one patient."""

    shift_x: Grid
    shift_y: Grid
    turn: Grid  # radians
    zoom: Grid
    breath: Grid  # depth of inspiration: moves the diaphragm

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> Pose:
        """Pose of `n` films."""
        return cls._uniform(n, rng, {
            "shift_x": (-0.07, 0.07), "shift_y": (-0.06, 0.06), "turn": (-0.07, 0.07),
            "zoom": (0.92, 1.10), "breath": (-0.06, 0.06),
        })  # fmt: skip


def _draw(a: Anatomy, p: Pose, kind: Indices, size: int, rng: np.random.Generator) -> Grid:
    """Attenuation (n, size, size) of films of the kinds (n,), indices into `CLASSES`."""
    fine = 2 if size < _SUPERSAMPLED_BELOW else 1
    axis: Grid = np.linspace(-1, 1, size * fine, dtype=np.float32)
    down, across = axis[None, :, None], axis[None, None, :]
    cos, sin = np.cos(p.turn), np.sin(p.turn)
    x = (across * cos - down * sin) / p.zoom - p.shift_x
    y = (across * sin + down * cos) / p.zoom - p.shift_y

    lung, depth = _lungs(a, p, x, y)
    heart = _heart(a, x, y)
    shoulder = 0.42 + 0.58 * _step(y + 0.72, 0.06)
    body = _step(a.body * shoulder - np.abs(x), 0.02)
    thickness = 0.62 + 0.30 * np.sqrt(np.clip(1 - (x / (1.05 * a.body)) ** 2, 0, 1))
    belly = _step(y - a.diaphragm + p.breath, 0.08)
    disease = _disease(a, kind, x, y, lung, rng)
    air = lung * (1 - 0.85 * heart) * (1 - 0.95 * np.clip(disease, 0, 1))

    film: Grid = body * (thickness + 0.10 * belly - 0.50 * air)
    film += _spine(x, y) * body + 0.22 * heart
    film += a.bone * _ribs(a, x, y) * body * (0.12 + 0.88 * depth) * (1 - 0.7 * heart)
    film += 0.9 * a.bone * _clavicles(x, y) * body
    film += 0.10 * _vessels(x, y, rng) * air
    if fine > 1:
        film = film.reshape(-1, size, fine, size, fine).mean((2, 4))
    return film


def _lungs(a: Anatomy, p: Pose, x: Grid, y: Grid) -> tuple[Grid, Grid]:
    """Both lung fields with the diaphragm below, and the rib cage around them (0..1)."""
    across = (np.abs(x) - a.lung_centre) / a.lung_width
    up = np.clip(-y - 0.02, 0, None) / a.lung_top
    chest = 1 - np.abs(across / (1 + 0.10 * np.clip(y, -0.5, 0.5))) ** 2.4 - up**2.2
    # The right dome (image left) stands a little higher; both fall off towards the side wall.
    dome = a.diaphragm + p.breath + 0.04 * np.sign(x) - 0.10 * (1 - np.clip(across, -1, 1.2) ** 2)
    lung = _step(chest, 0.10) * _step(dome + 0.05 - y, 0.02)
    cage = _step(a.lung_centre + a.lung_width + 0.05 - np.abs(x), 0.03) * _step(
        a.diaphragm + 0.15 - y, 0.06
    )
    return lung, cage


def _heart(a: Anatomy, x: Grid, y: Grid) -> Grid:
    """Heart, great vessels and hila, darker than bone and softer in outline (0..1)."""
    u, v = x - a.heart_shift, y - a.diaphragm + 0.72 * a.heart
    tilted = (0.86 * u + 0.34 * v) ** 2 / 1.15 + (-0.34 * u + 0.86 * v) ** 2 / 0.80
    ventricles = _step(1 - tilted / a.heart**2, 0.22)
    vessels = _step(0.13 + 0.03 * np.cos(6 * y) - np.abs(x - 0.02), 0.03) * _step(0.3 - y, 0.1)
    knob = np.exp(-((x - 0.12) ** 2 + (y + 0.28) ** 2) / 0.006)
    hila = np.exp(-((np.abs(x) - 0.21) ** 2 / 0.006 + (y + 0.10) ** 2 / 0.02))
    return np.clip(np.maximum(ventricles, 0.8 * vessels) + 0.5 * knob + 0.35 * hila, 0, 1)


def _spine(x: Grid, y: Grid) -> Grid:
    column = _step(0.085 - np.abs(x), 0.02)
    vertebrae: Grid = 1 + 0.25 * np.cos(38 * y)
    return 0.13 * column * vertebrae


def _ribs(a: Anatomy, x: Grid, y: Grid) -> Grid:
    """Posterior ribs falling to the side, anterior ribs fainter and steeper (0..1.4)."""
    side = np.abs(x)
    behind = a.rib_count / 2 * (y - a.rib_slope * (side - 0.1) + 0.55 * side**2) + a.rib_phase
    front = a.rib_count / 2 * (y + 0.9 * (side - 0.3) ** 2 + 0.45 * side) + a.rib_phase + 0.4
    ridge = np.exp(-((np.sin(np.pi * behind) / 0.34) ** 2))
    faint = np.exp(-((np.sin(np.pi * front) / 0.34) ** 2)) * _step(side - 0.28, 0.08)
    return ridge * _step(side - 0.07, 0.02) + 0.4 * faint


def _clavicles(x: Grid, y: Grid) -> Grid:
    side = np.abs(x)
    line = y + 0.60 + 0.16 * (side - 0.15) - 0.10 * np.sin(4 * side)
    bar: Grid = np.exp(-((line / 0.032) ** 2))
    return bar * _step(side - 0.08, 0.02) * _step(0.72 - side, 0.04)


def _vessels(x: Grid, y: Grid, rng: np.random.Generator) -> Grid:
    """Branching lung markings: they thin out from the hila to the side wall."""
    hilum = (np.abs(x) - 0.2) ** 2 + (y + 0.08) ** 2
    return np.exp(-hilum / 0.10) * (0.4 + 0.9 * np.clip(_noise(x.shape, 0.05, rng), 0, 2))


def _disease(
    a: Anatomy, kind: Indices, x: Grid, y: Grid, lung: Grid, rng: np.random.Generator
) -> Grid:
    """Loss of air (0..1) by class: none, one dense patch in one lobe, fine haze on both sides."""
    side = np.where(a.side < 0, np.float32(-1), np.float32(1))
    cx, cy = side * (a.lung_centre + 0.05 * np.abs(a.side)), a.lobe
    distance = np.sqrt(((x - cx) / 1.05) ** 2 + ((y - cy) / 0.95) ** 2)
    ragged = 0.07 * _noise(x.shape, 0.14, rng)
    patch = _step(a.extent + ragged - distance, 0.04) * _step(side * x, 0.02)

    hilum = np.exp(-((np.abs(x) - 0.40) ** 2 / 0.14 + (y + 0.05) ** 2 / 0.30))
    strands = np.abs(_noise(x.shape, 0.06, rng))
    blotches = np.clip(1 + 0.5 * _noise(x.shape, 0.15, rng), 0.2, 2)
    haze = hilum * blotches * (0.15 + 0.62 * np.clip(1.3 - 1.3 * strands, 0, 1))

    lobar = (kind == CLASSES.index("bacterial"))[:, None, None]
    diffuse = (kind == CLASSES.index("viral"))[:, None, None]
    disease: Grid = lung * a.severity * (patch * lobar + haze * diffuse)
    return disease


def _expose(attenuation: Grid, site: int, rng: np.random.Generator) -> Pixels:
    """Attenuation to grey (n, size, size) uint8, as a film processor does: by the film's own range.

    Every film's quantiles are moved to values drawn without regard to its class, so no
    statistic of the whole film's brightness tells the classes apart.
    """
    n, size, _ = attenuation.shape
    grain = rng.standard_normal(attenuation.shape, np.float32) * np.float32(_film_noise(site))
    noisy = attenuation + grain * (0.15 + attenuation)
    flat = noisy.reshape(n, -1)
    knots = np.linspace(0, 1, _KNOTS)
    middle, contrast, gamma = _tone(site, n, rng)
    target = 255 * np.clip(middle + contrast * (knots**gamma - 0.5), 0, 1)
    own = np.quantile(flat, knots, axis=1).T + 1e-6 * np.arange(knots.size)
    grey = np.stack([np.interp(f, o, t) for f, o, t in zip(flat, own, target, strict=True)])
    pixels: Pixels = np.rint(grey).reshape(n, size, size).astype(np.uint8)
    return pixels


def _film_noise(site: int) -> float:
    return 0.012 + 0.004 * (site % 3)


def _tone(site: int, n: int, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Middle grey, contrast and gamma (n, 1) of each film: by the site's habit, and by chance."""
    habit = np.array([(0.50, 0.85, 1.0), (0.45, 0.78, 1.10), (0.54, 0.90, 0.88)])[site % 3]
    middle = habit[0] + rng.normal(0, 0.025, (n, 1))
    contrast = habit[1] * rng.uniform(0.9, 1.08, (n, 1))
    return middle, contrast, habit[2] * rng.uniform(0.9, 1.12, (n, 1))


def _noise(shape: tuple[int, ...], grain: float, rng: np.random.Generator) -> Grid:
    """Gaussian noise of unit variance, smooth over `grain` half film widths."""
    size = shape[1]
    white = np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    smooth = np.fft.irfft2(
        white * np.exp(-2 * (np.pi * grain * size / 2) ** 2 * (fy**2 + fx**2)), s=shape[1:]
    )
    noise: Grid = (smooth / smooth.std((1, 2), keepdims=True)).astype(np.float32)
    return noise


def _step(distance: Grid, softness: float) -> Grid:
    """From 0 (negative) to 1 (positive), logistic over about four times `softness`."""
    step: Grid = 1 / (1 + np.exp(np.clip(-distance / softness, -30, 30)))
    return step
