"""What the attack on updates found, as a finding: verdict, table, and a panel of pictures."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure as Sheet
from torch import nn

from primia.audit.chance import ALPHA, luck_of_ranks
from primia.audit.films import Case
from primia.audit.invert import WAYS, Inversion, OnPart, Trial, Way, Wishes, mean_film_psnr
from primia.audit.networks import easy_network, sigmoid_network, warmed_network
from primia.federation.contribution import Entropy
from primia.findings import Figure, Finding, Picture, Table, Verdict

_HEADS: dict[Way, str] = {
    "plain": "plain update",
    "clipped": "clipped",
    "as planned": "clipped and noised\nas planned",
    "masked sum": "masked sum",
    "one upload": "one masked upload",
}
_EDGE = 1.35  # inches of one film


def attack_invert(
    case: Case,
    own: nn.Module | None,
    wishes: Wishes,
    *,
    entropy: Entropy = os.urandom,
    on_part: OnPart = lambda _what, _share: None,
) -> Finding:
    """Attack the study's own network, and beside it one that the attack is known to work on.

    own: the plan's; None warms one up, on films that are not attacked.

    Raises ConfigError for a plan without privacy, DataError for too few films.
    """
    began = time.monotonic()
    inversion = Inversion(case, wishes, entropy)
    terms = case.plan.model
    make = easy_network if wishes.method == "direction" else sigmoid_network
    easy = make(terms.input_size, terms.channels, len(terms.classes), seed=wishes.seed)
    control = inversion.attack("easy network", easy, on_part=on_part, part=(0.0, 0.6))
    own = own or warmed_network(case.plan, inversion.unattacked)
    study = inversion.attack(terms.name, own, on_part=on_part, part=(0.6, 1.0))
    return finding_of(inversion, control, study, time.monotonic() - began)


def finding_of(inversion: Inversion, control: Trial, own: Trial, seconds: float) -> Finding:
    """control: the network that is easy to invert; own: the study's."""
    size = len(inversion.gallery.index)
    luck = min(1.0, 2 * min(luck_of_ranks(t.ranks("as planned"), size) for t in (control, own)))
    works = luck_of_ranks(control.ranks("plain"), size) < ALPHA
    verdict = Verdict.HELD if luck >= ALPHA else Verdict.FELL
    figures: dict[str, Figure] = {
        "gallery": size,
        "films": inversion.wishes.films,
        "pixels": inversion.case.films.size,
        "noise_multiplier": inversion.noise,
        "mean_film_psnr": round(mean_film_psnr(inversion.gallery), 1),
        "attack_works": works,
        "luck": luck,
    }
    for key, trial in (("control", control), ("study", own)):
        figures[f"{key}_weights"] = trial.weights
        for way in _ways(trial):
            name = f"{key}_{way.replace(' ', '_')}"
            figures[f"{name}_named"] = trial.named(way)
            figures[f"{name}_median_rank"] = float(trial.median(way, "rank"))
            figures[f"{name}_psnr"] = round(trial.median(way, "psnr"), 1)
            figures[f"{name}_ssim"] = round(trial.median(way, "ssim"), 2)
    return Finding(
        command="attack invert",
        title="Films rebuilt from an update",
        question=(
            f"Can a film be rebuilt from the update that holds it, well enough to be picked out "
            f"of {size}?"
        ),
        verdict=verdict if works else Verdict.TOLD,
        answer=_answer(inversion, control, own) if works else _failed(control),
        limits=_limits(inversion),
        figures=figures,
        tables=(_table(inversion, control, own, figures["mean_film_psnr"]),),
        pictures=(_panel(inversion, (control, own)),),
        local=inversion.case.own,
        seconds=seconds,
        made_at=time.time(),
        plan=inversion.case.digest,
    )


def _ways(trial: Trial) -> list[Way]:
    return [way for way in WAYS if trial.of(way)]


def _named(trial: Trial, way: Way) -> str:
    return f"{trial.named(way)} of {len(trial.of(way))}"


def _answer(inversion: Inversion, control: Trial, own: Trial) -> str:
    return (
        f"From plain updates {_named(control, 'plain')} films were named out of "
        f"{len(inversion.gallery.index)} on a network that is easy to invert (median "
        f"{control.median('plain', 'psnr'):.0f} dB) and {_named(own, 'plain')} on the study's own; "
        f"with clipping and noise {inversion.noise:g} as planned {_named(control, 'as planned')} "
        f"and {_named(own, 'as planned')}, at median ranks "
        f"{control.median('as planned', 'rank'):g} and {own.median('as planned', 'rank'):g}, where "
        f"a guess has {(len(inversion.gallery.index) + 1) / 2:g}."
    )


def _failed(control: Trial) -> str:
    return (
        f"The attack named {_named(control, 'plain')} films from unprotected updates of the easy "
        "network: it was too short to say anything of protection; raise --budget or --steps."
    )


def _limits(inversion: Inversion) -> str:
    wishes = inversion.wishes
    return inversion.case.size_text() + (
        f"{wishes.films} films, one step with one film in it, {wishes.steps} steps of search at "
        f"most; protection under which ranks are guesses is called fallen with a chance of "
        f"{ALPHA:g}, and a trace too faint for {wishes.films} films is not seen. Stronger attacks "
        "may exist; the bound on all of them is the reconstruction bound that follows from the "
        "plan's privacy."
    )


def _table(inversion: Inversion, control: Trial, own: Trial, zero: Figure) -> Table:
    rows = []
    size = inversion.case.plan.model.input_size
    for name, trial in (("easy", control), ("study's", own)):
        for way in _ways(trial):
            rows.append(
                (
                    f"{name} at {size} px, {trial.weights:,} weights",
                    _HEADS[way].replace("\n", " "),
                    _named(trial, way),
                    f"{trial.median(way, 'rank'):g}",
                    f"{trial.median(way, 'psnr'):.1f}",
                    f"{trial.median(way, 'ssim'):.2f}",
                )
            )
    rows.append(("no attack", "the mean film", "", "", f"{zero:.1f}", ""))
    return Table(("network", "what leaves", "named", "rank", "PSNR dB", "SSIM"), tuple(rows))


def _panel(inversion: Inversion, trials: Sequence[Trial]) -> Picture:
    """One row a network: the film, then what was rebuilt from each release."""
    ways = [way for way in WAYS if any(t.of(way) for t in trials)]
    gallery, film = inversion.gallery, 0
    words = []
    with matplotlib.rc_context({"font.size": 8.0, "font.family": "sans-serif"}):
        sheet = Sheet(
            figsize=(_EDGE * (len(ways) + 1), (_EDGE + 0.35) * len(trials) + 0.2),
            layout="constrained",
        )
        grid = sheet.subplots(len(trials), len(ways) + 1, squeeze=False)
        for cells, trial in zip(grid, trials, strict=True):
            shown = [("the film", gallery.grey(gallery.seen[film]), trial.name)]
            for way in ways:
                found = trial.of(way)
                if found:
                    said = f"rank {found[0].rank}, {found[0].psnr:.1f} dB"
                    shown.append((_HEADS[way], gallery.grey(found[0].rebuilt), said))
                    words.append(f"{trial.name}, {way}: {said}")
            for axes in cells:
                axes.set_axis_off()
            for axes, (head, grey, below) in zip(cells, shown, strict=False):
                axes.imshow(grey.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set_title(head if trial is trials[0] else "", fontsize=8)
                axes.text(
                    0.5, -0.04, below, transform=axes.transAxes, ha="center", va="top", fontsize=7
                )
        out = io.BytesIO()
        sheet.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return Picture("One film, as rebuilt from what leaves", "; ".join(words), out.getvalue())
