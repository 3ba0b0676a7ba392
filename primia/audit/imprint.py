"""A first layer made for reading films out of a sum: `primia attack imprint`.

Robbing the Fed (Fowl et al., ICLR 2022, arXiv 2110.13057), with bounded activations: a coordinator
that may choose the architecture puts a layer of bins in front. Each row measures the same thing of
a film and has a slope in a bin of its own alone, so a film that is alone in a bin is that row's
gradient over its bias's. Masks do not help: it is the sum that is read. Hence a plan names a
network of the zoo, and no message carries one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import nn

from primia.audit.films import Case, Gallery, gallery_of
from primia.audit.likeness import psnr
from primia.audit.networks import first_network
from primia.audit.release import Gradient, Releases, Rows
from primia.audit.threads import one_thread
from primia.config.plan import StudyPlan
from primia.config.strict import validate
from primia.errors import ConfigError, PeerError
from primia.federation.contribution import Entropy
from primia.findings import Figure, Finding, Table, Verdict
from primia.learning.models import flatten, load_flat

BINS = 512
FILMS = 64  # in the sum, one a patient, spread over three sites
EXACT = 40.0  # dB from which a film counts as found
MOST_WEIGHTS = 2**25  # of the layer: 512 bins at 256 px, a minute of one busy core and 4.5 GiB
_SITES = 3


def check_layer(size: int, channels: int, bins: int) -> None:
    """Raise ConfigError for a layer too large to be attacked here."""
    weights = size * size * channels * bins
    if weights > MOST_WEIGHTS:
        most = math.isqrt(MOST_WEIGHTS // (channels * bins))
        raise ConfigError(
            f"a layer of {bins} bins for films of {size} px has {weights / 1e6:.0f} million "
            f"weights, and {MOST_WEIGHTS / 1e6:.0f} million are the most that this attack is made "
            f"for; give --size {most} or less, or fewer --bins"
        )


def imprint_network(
    gallery: Gallery, channels: int, classes: int, *, bins: int = BINS, seed: int = 0
) -> nn.Sequential:
    """The bins, and a head that tells classes apart by the last full bin alone.

    What is measured is a film's likeness to a random pattern, spread over films like a normal
    variable; the cuts make bins of equal chance. The attacker learns mean and deviation from films
    of its own. Signs alternate from bin to bin, so that full bins cancel and no prediction is sure.
    """
    pixels = channels * gallery.films.size**2
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randn(pixels, generator=generator) / pixels**0.5
    known = gallery.seen.flatten(1).repeat(1, channels) @ pattern
    normal = NormalDist(float(known.mean()), float(known.std()))
    cuts = torch.tensor([normal.inv_cdf((i + 0.5) / (bins + 1)) for i in range(bins + 1)])
    width = cuts[1:] - cuts[:-1]
    layer, head = nn.Linear(pixels, bins), nn.Linear(bins, classes)
    signs = 1.0 - 2.0 * (torch.arange(bins) % 2)
    with torch.no_grad():
        layer.weight.copy_(pattern / width[:, None])
        layer.bias.copy_(-cuts[:-1] / width)
        head.weight.copy_(torch.linspace(-1, 1, classes)[:, None] * signs)
        head.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer, nn.Hardtanh(0.0, 1.0), head)


def read_imprint(seen: Gradient) -> torch.Tensor:
    """Every bin's candidate, (bins, pixels): the film, where one film alone fell into the bin.

    seen: the gradient of `imprint_network`, summed over any films. Empty bins give zeros.
    """
    weight, bias = seen[0].double(), seen[1].double()
    return weight / torch.where(bias == 0, torch.inf, bias)[:, None]


@dataclass(frozen=True)
class Read:
    """Of one way of release: films found, of how many, and the best likeness of any."""

    found: int
    films: int
    best: float


def attack_imprint(
    case: Case,
    *,
    films: int = FILMS,
    bins: int = BINS,
    seed: int = 0,
    entropy: Entropy = os.urandom,
    on_step: Callable[[str], None] = lambda _what: None,
) -> Finding:
    """Read a masked sum through the hostile layer: plain, clipped, and noised as planned.

    Raises ConfigError for a plan without privacy or a layer too large, DataError for too few
    films.
    """
    began = time.monotonic()
    terms = case.plan.model
    check_layer(terms.input_size, terms.channels, bins)
    gallery = gallery_of(case.films, seed)
    model = imprint_network(gallery, terms.channels, len(terms.classes), bins=bins, seed=seed)
    releases = Releases(model, case.plan, entropy)
    parts = [Rows.of(case.films, part) for part in np.array_split(gallery.index[:films], _SITES)]
    true = gallery.grey(gallery.seen[:films])
    found = {}
    with one_thread():
        for name, release in releases.ways().items():
            on_step(f"hostile first layer: {name}")
            seen, _ = releases.masked([release(rows) for rows in parts])
            found[name] = _read(seen, true, gallery, terms.channels)
    refused = is_refused(case.plan, model)
    seconds = time.monotonic() - began
    return _finding(found, releases, refused, bins, seconds, case=case)


def _read(seen: Gradient, true: torch.Tensor, gallery: Gallery, channels: int) -> Read:
    candidates = read_imprint(seen).float()
    size = true.shape[-1]
    rebuilt = gallery.grey(candidates.view(-1, channels, size, size).mean(1))
    flat, wanted = rebuilt.flatten(1).double(), true.flatten(1).double()
    nearest = torch.cdist(wanted, flat).argmin(1)
    likeness = [psnr(film, rebuilt[at]) for film, at in zip(true, nearest.tolist(), strict=True)]
    return Read(sum(x > EXACT for x in likeness), len(true), max(likeness))


def is_refused(plan: StudyPlan, model: nn.Module) -> bool:
    """Whether neither a plan nor a message of weights brings this network to a site."""
    raw = plan.model_dump(mode="json")
    raw["model"]["name"] = "imprint"
    try:
        validate(StudyPlan, raw, where="a plan that names a hostile network")
    except ConfigError:
        pass
    else:
        return False
    try:
        load_flat(first_network(plan), flatten(model))
    except PeerError:
        return True
    return False


def _finding(
    found: dict[str, Read],
    releases: Releases,
    refused: bool,
    bins: int,
    seconds: float,
    *,
    case: Case,
) -> Finding:
    plain, planned = found["plain"], found["as planned"]
    sigma = releases.privacy.noise_multiplier
    figures: dict[str, Figure] = {"films": plain.films, "bins": bins, "refused": refused}
    for name, read in found.items():
        key = name.replace(" ", "_")
        figures[f"found_{key}"], figures[f"best_psnr_{key}"] = read.found, read.best
    held = refused and planned.found == 0
    return Finding(
        command="attack imprint",
        title="A hostile first layer",
        question="What if the coordinator might choose the architecture?",
        verdict=Verdict.HELD if held else Verdict.FELL,
        answer=(
            f"A layer made for it read {plain.found} of {plain.films} films out of one masked sum "
            f"exactly, {found['clipped'].found} with clipping alone and {planned.found} with noise "
            f"{sigma:g} as planned. "
            + (
                "A worker takes no such layer: a plan names a network of the zoo, and weights of "
                "another size are refused."
                if refused
                else "A worker would take such a layer: that is a fault, report it."
            )
        ),
        limits=case.size_text()
        + (
            f"Exact is above {EXACT:g} dB, which no luck reaches. One layer, one way to read it: "
            "without noise only the pinned architecture stands against such layers."
        ),
        figures=figures,
        tables=(
            Table(
                ("what leaves, masked and summed", "films found", "best, dB"),
                tuple((n, f"{r.found} of {r.films}", f"{r.best:.1f}") for n, r in found.items()),
            ),
        ),
        local=case.own,
        seconds=seconds,
        made_at=time.time(),
        plan=case.digest,
    )
