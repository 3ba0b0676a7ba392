"""One place of the product broken at a time, for audits that have to see it.

`CLASSIC` are faults of others' software; `OTHERS` say which condition they break.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from primia import contribute
from primia.federation import contribution
from primia.learning import local, step, terms
from primia.learning.clipped import PerUnitClipping
from primia.learning.clipping import Flat
from primia.learning.insecure import insecure_seeded_entropy
from primia.learning.step import PrivateStep
from primia.protocol import site_secrets, unmasking
from primia.protocol.site_secrets import SiteSecrets
from primia.secagg import encoding, keys, masks
from primia.types import sha256

Break = Callable[[pytest.MonkeyPatch], None]


# --- noise ---

add_gaussian = step.add_gaussian


def half_the_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PrivateStep, "gradient_noise", property(lambda s: s.noise_multiplier / 2))


def noise_on_the_mean(patch: pytest.MonkeyPatch) -> None:
    """As if the sum's noise were divided once more."""

    def add(targets: Any, sigma: float, entropy: Any, *, scale: float, threads: int) -> None:
        add_gaussian(targets, 0.0, entropy, scale=scale)
        add_gaussian(targets, sigma * scale**2, entropy, threads=threads)

    patch.setattr(step, "add_gaussian", add)


def noise_on_the_mean_at_full_size(patch: pytest.MonkeyPatch) -> None:
    def add(targets: Any, sigma: float, entropy: Any, *, scale: float, threads: int) -> None:
        add_gaussian(targets, 0.0, entropy, scale=scale)
        add_gaussian(targets, sigma, entropy, threads=threads)

    patch.setattr(step, "add_gaussian", add)


def no_noise_in_the_last_layer(patch: pytest.MonkeyPatch) -> None:
    def add(targets: Any, sigma: float, entropy: Any, *, scale: float, threads: int) -> None:
        add_gaussian(targets[:-1], sigma, entropy, scale=scale, threads=threads)
        add_gaussian(targets[-1:], 0.0, entropy, scale=scale)

    patch.setattr(step, "add_gaussian", add)


def no_noise_in_an_empty_batch(patch: pytest.MonkeyPatch) -> None:
    def add(targets: Any, sigma: float, entropy: Any, *, scale: float, threads: int) -> None:
        empty = not any(bool(t.any()) for t in targets)
        add_gaussian(targets, 0.0 if empty else sigma, entropy, scale=scale, threads=threads)

    patch.setattr(step, "add_gaussian", add)


def one_noise_for_all_layers(patch: pytest.MonkeyPatch) -> None:
    def add(targets: Any, sigma: float, entropy: Any, *, scale: float, threads: int) -> None:
        key = entropy(32)
        for target in targets:
            add_gaussian(target, sigma, lambda _n: key, scale=scale, threads=threads)

    patch.setattr(step, "add_gaussian", add)


def one_noise_for_two_steps(patch: pytest.MonkeyPatch) -> None:
    keys: list[bytes] = []

    def add(targets: Any, sigma: float, entropy: Any, *, scale: float, threads: int) -> None:
        keys.append(keys[-1] if len(keys) % 2 else entropy(32))
        add_gaussian(targets, sigma, lambda _n: keys[-1], scale=scale, threads=threads)

    patch.setattr(step, "add_gaussian", add)


def one_noise_for_all_weights(patch: pytest.MonkeyPatch) -> None:
    def add(targets: Any, sigma: float, entropy: Any, *, scale: float, threads: int) -> None:
        one = torch.zeros(1)
        add_gaussian(one, sigma, entropy)
        for target in targets:
            target.add_(one.item()).mul_(scale)

    patch.setattr(step, "add_gaussian", add)


def uniform_noise(patch: pytest.MonkeyPatch) -> None:
    def add(targets: Any, sigma: float, entropy: Any, *, scale: float, threads: int) -> None:
        generator = torch.Generator().manual_seed(int.from_bytes(entropy(7), "little"))
        for target in targets:
            wide = 2 * torch.rand(target.shape, generator=generator) - 1
            target.add_(wide * sigma * 3**0.5).mul_(scale)

    patch.setattr(step, "add_gaussian", add)


def seeded_noise(patch: pytest.MonkeyPatch) -> None:
    """A seed for each round: the same noise at every site and in every round."""
    honest = contribute.train_locally

    def seeded(*arguments: Any, **named: Any) -> Any:
        with pytest.warns(UserWarning, match="INSECURE"):
            named["entropy"] = insecure_seeded_entropy(7)
        return honest(*arguments, **named)

    patch.setattr(contribute, "train_locally", seeded)


def one_noise_for_all_sites(patch: pytest.MonkeyPatch) -> None:
    """Only the noise is the same at all sites; its key follows from the step."""
    honest, calls = local.private_step, [0]

    def private_step(terms: Any, entropy: Any, group: Any = None) -> PrivateStep:
        steps = iter(range(1000))

        def keys(size: int) -> bytes:
            return next(steps).to_bytes(size, "big") if size == 32 else entropy(size)

        calls[0] += 1
        return honest(terms, keys, group)

    patch.setattr(local, "private_step", private_step)


def noise_from(make: Callable[[int, torch.Generator], torch.Tensor]) -> Break:
    """Noise that `make` gives of unit size: as many weights, a generator with a fresh seed."""

    def breaks(patch: pytest.MonkeyPatch) -> None:
        def add(targets: Any, sigma: float, entropy: Any, *, scale: float, threads: int) -> None:
            generator = torch.Generator().manual_seed(int.from_bytes(entropy(7), "little"))
            noise = make(sum(t.numel() for t in targets), generator) * sigma
            for target, part in zip(
                targets, noise.split([t.numel() for t in targets]), strict=True
            ):
                target.add_(part.view(target.shape)).mul_(scale)

        patch.setattr(step, "add_gaussian", add)

    return breaks


def noise_cut_off(patch: pytest.MonkeyPatch) -> None:
    """No sample lies more than 3.5 deviations out."""
    noise_from(lambda n, g: torch.randn(n, generator=g).clamp(-3.5, 3.5))(patch)


def noise_of_half_precision(patch: pytest.MonkeyPatch) -> None:
    noise_from(lambda n, g: torch.randn(n, generator=g).half().float())(patch)


def noise_that_follows_from_the_films(patch: pytest.MonkeyPatch) -> None:
    """Its seed is a digest of the sum that it should hide."""

    def add(targets: Any, sigma: float, _entropy: Any, *, scale: float, threads: int) -> None:
        key = sha256(b"".join(t.numpy().tobytes() for t in targets))
        add_gaussian(targets, sigma, lambda _n: bytes.fromhex(key), scale=scale)

    patch.setattr(step, "add_gaussian", add)


def noise_by_the_longest_gradient(patch: pytest.MonkeyPatch) -> None:
    """As large as the patients in the batch need, which tells how long their gradients are."""
    honest, longest = PerUnitClipping.sum, [0.0]

    def watched(self: Any, *arguments: Any) -> Any:
        found = honest(self, *arguments)
        longest[0] = found.longest
        return found

    def add(targets: Any, sigma: float, entropy: Any, *, scale: float, threads: int) -> None:
        add_gaussian(targets, sigma * min(1.0, longest[0] or 1.0), entropy, scale=scale)

    patch.setattr(PerUnitClipping, "sum", watched)
    patch.setattr(step, "add_gaussian", add)


# --- clipping ---


def clipping_of_the_far_too_long_alone(patch: pytest.MonkeyPatch) -> None:
    honest = Flat.factors

    def factors(self: Flat, squared: torch.Tensor) -> torch.Tensor:
        short = squared.sum(0).sqrt() < 2 * self.clip_norm
        return torch.where(short, torch.ones_like(squared), honest(self, squared))

    patch.setattr(Flat, "factors", factors)


def no_clipping_of_an_only_patient(patch: pytest.MonkeyPatch) -> None:
    honest = PerUnitClipping.sum

    def unless(self: Any, clipping: Any, loss: Any, inputs: Any, targets: Any, unit: Any) -> Any:
        rule = Flat(1e9) if len(torch.unique(unit)) == 1 else clipping
        return honest(self, rule, loss, inputs, targets, unit)

    patch.setattr(PerUnitClipping, "sum", unless)


def clipping_by_layer(patch: pytest.MonkeyPatch) -> None:
    def factors(self: Flat, squared: torch.Tensor) -> torch.Tensor:
        return (self.clip_norm / squared.sqrt().clamp_min(1e-30)).clamp_max(1.0)

    patch.setattr(Flat, "factors", factors)


def no_clipping(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flat, "factors", lambda _self, squared: torch.ones_like(squared))


def clipping_without_the_first_layer(patch: pytest.MonkeyPatch) -> None:
    honest = Flat.factors

    def factors(self: Flat, squared: torch.Tensor) -> torch.Tensor:
        return honest(self, torch.cat([torch.zeros_like(squared[:1]), squared[1:]]))

    patch.setattr(Flat, "factors", factors)


def clipping_by_film(patch: pytest.MonkeyPatch) -> None:
    honest = PerUnitClipping.sum

    def by_film(self: Any, clipping: Any, loss: Any, inputs: Any, targets: Any, unit: Any) -> Any:
        return honest(self, clipping, loss, inputs, targets, torch.arange(len(inputs)))

    patch.setattr(PerUnitClipping, "sum", by_film)


def clipping_after_the_sum(patch: pytest.MonkeyPatch) -> None:
    """The batch's gradient is clipped, as if it were one patient's."""
    honest = PerUnitClipping.sum

    def whole(self: Any, clipping: Any, *rows: Any) -> Any:
        found = honest(self, Flat(1e9), *rows)
        norm = float(torch.stack([g.norm() for g in found.gradients]).norm())
        for gradient in found.gradients:
            gradient.mul_(min(1.0, clipping.clip_norm / max(norm, 1e-12)))
        return found

    patch.setattr(PerUnitClipping, "sum", whole)


# --- sampling ---


def fixed_size(units: int, rate: float, entropy: Any) -> Any:
    generator = np.random.default_rng(int.from_bytes(entropy(16), "little"))
    return np.sort(generator.permutation(units)[: round(rate * units)]).astype(np.int64)


def batches_of_one_size(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step, "poisson_patients", fixed_size)


def shuffled_batches(patch: pytest.MonkeyPatch) -> None:
    left: list[Any] = []

    def shuffled(units: int, rate: float, entropy: Any) -> Any:
        size = round(rate * units)
        if not left or left[0].size < size:
            generator = np.random.default_rng(int.from_bytes(entropy(16), "little"))
            left[:] = [generator.permutation(units)]
        batch, left[0] = left[0][:size], left[0][size:]
        return np.sort(batch).astype(np.int64)

    patch.setattr(step, "poisson_patients", shuffled)


def one_draw_for_a_round(patch: pytest.MonkeyPatch) -> None:
    honest, last = step.poisson_patients, {}

    def draw(units: int, rate: float, entropy: Any) -> Any:
        if id(entropy) not in last or len(last[id(entropy)]) == 0:
            last[id(entropy)] = honest(units, rate, entropy)
        return last[id(entropy)]

    patch.setattr(step, "poisson_patients", draw)


def twice_the_rate(patch: pytest.MonkeyPatch) -> None:
    honest = step.poisson_patients
    patch.setattr(step, "poisson_patients", lambda n, q, e: honest(n, min(1.0, 2 * q), e))


def patients_drawn_by_film(patch: pytest.MonkeyPatch) -> None:
    """Every film is drawn by itself; one is enough for its patient to be in the batch."""

    def by_film(drawn: Any, terms: Any, films: Any, entropy: Any) -> Any:
        rows = step.poisson_patients(len(films), terms.sampling_rate, entropy)
        return honest(np.unique(films.patients[rows]), terms, films, entropy)

    honest = local.views
    patch.setattr(local, "views", by_film)


def no_empty_batches(patch: pytest.MonkeyPatch) -> None:
    """Who is first comes in where nobody was drawn."""
    honest = step.poisson_patients

    def draw(units: int, rate: float, entropy: Any) -> Any:
        drawn = honest(units, rate, entropy)
        return drawn if drawn.size else np.zeros(1, np.int64)

    patch.setattr(step, "poisson_patients", draw)


def the_first_half_at_twice_the_rate(patch: pytest.MonkeyPatch) -> None:
    """Batches are as large as they should be, and some patients are in them twice as often."""
    honest = step.poisson_patients

    def draw(units: int, rate: float, entropy: Any) -> Any:
        return honest((units + 1) // 2, min(1.0, 2 * rate), entropy)

    patch.setattr(step, "poisson_patients", draw)


# --- divisor, encoding, masks ---


def divided_by_the_batch(patch: pytest.MonkeyPatch) -> None:
    honest = PrivateStep.noised_mean

    def divided(
        self: PrivateStep, clipped: Any, loss: Any, inputs: Any, targets: Any, unit: Any
    ) -> Any:
        found = honest(self, clipped, loss, inputs, targets, unit)
        factor = self.divisor / max(1, len(torch.unique(unit)))
        return [g * factor for g in found]

    patch.setattr(PrivateStep, "noised_mean", divided)


def bits_lost_in_encoding(patch: pytest.MonkeyPatch) -> None:
    honest = encoding.encode

    def coarse(values: Any, **named: Any) -> Any:
        ring, clipped = honest(values, **named)
        ring &= np.uint32(0xFFFFFFF0)
        return ring, clipped

    patch.setattr(contribution, "encode", coarse)


def no_masks(patch: pytest.MonkeyPatch) -> None:
    for module in (site_secrets, unmasking):
        patch.setattr(module, "apply_masks", lambda *_a, **_n: None)


def masks_at_the_sites_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unmasking, "apply_masks", lambda *_a, **_n: None)


def one_mask_for_all_rounds(patch: pytest.MonkeyPatch) -> None:
    honest = masks.KeyStream.words

    def same(self: Any, _key: bytes, chunk: int, count: int) -> Any:
        return honest(self, bytes(32), chunk, count)

    patch.setattr(masks.KeyStream, "words", same)


def own_masks_alone(patch: pytest.MonkeyPatch) -> None:
    """The coordinator learns these, and so every site's words; the sum comes out as ever."""
    honest = SiteSecrets.mask_in_place

    def alone(self: Any, words: Any, layout: Any, _partners: Any, **named: Any) -> None:
        honest(self, words, layout, (), **named)

    patch.setattr(SiteSecrets, "mask_in_place", alone)


def no_masks_of_their_own(patch: pytest.MonkeyPatch) -> None:
    """Whose words come late is taken for lost, and is open then."""

    def paired(
        self: Any, words: Any, layout: Any, partners: Any, *, session: Any, cipher: Any, **_: Any
    ) -> None:
        for vector in layout.vectors:
            named = {"session": session, "vector": vector, "cipher": cipher}
            secrets = [(peer, self.peers[peer].mask) for peer in partners]
            found = [(p, keys.pair_mask_key(s, one=self.me, other=p, **named)) for p, s in secrets]
            among = [masks.pair_mask(key, me=self.me, peer=peer) for peer, key in found]
            masks.apply_masks(words[layout.slice(vector.name)], among, cipher=cipher)

    patch.setattr(SiteSecrets, "mask_in_place", paired)
    patch.setattr(unmasking, "_masks", lambda *_a: iter(()))


def shares_for_one_more(patch: pytest.MonkeyPatch) -> None:
    """Sized as if one of those who may pool what they know did not."""
    honest = terms.noise_share

    def share(**named: Any) -> Any:
        return honest(**(named | {"honest": named["honest"] + 1}))

    patch.setattr(terms, "noise_share", share)


CLASSIC = [
    half_the_noise,
    noise_on_the_mean,
    clipping_by_layer,
    batches_of_one_size,
]
OTHERS: list[tuple[Break, str]] = [
    (noise_on_the_mean_at_full_size, "noise of each layer"),
    (no_noise_in_the_last_layer, "noise of each layer"),
    (no_noise_in_an_empty_batch, "noise of a batch of one patient or none"),
    (one_noise_for_all_layers, "noise of weights and layers"),
    (one_noise_for_two_steps, "noise of steps, rounds and sites"),
    (one_noise_for_all_weights, "noise of each layer"),
    (uniform_noise, "shape of the noise"),
    (seeded_noise, "noise of steps, rounds and sites"),
    (noise_cut_off, "farthest noise"),
    (noise_of_half_precision, "digits of the noise"),
    (noise_that_follows_from_the_films, "noise of the same patients' sums"),
    (noise_by_the_longest_gradient, "noise of a batch of one patient or none"),
    (clipping_of_the_far_too_long_alone, "what a patient adds, in clip norms"),
    (no_clipping_of_an_only_patient, "an only patient's chance"),
    (no_empty_batches, "an only patient's chance"),
    (the_first_half_at_twice_the_rate, "a patient's chance to be in a step"),
    (own_masks_alone, "masks with others"),
    (no_masks_of_their_own, "a site's own mask"),
    (one_noise_for_all_sites, "noise of steps, rounds and sites"),
    (no_clipping, "what a patient adds, in clip norms"),
    (clipping_without_the_first_layer, "what a patient adds, in clip norms"),
    (clipping_by_film, "what a patient adds, in clip norms"),
    (clipping_after_the_sum, "a patient's chance to be in a step"),
    (shuffled_batches, "patients in a step"),
    (one_draw_for_a_round, "draws of steps and rounds"),
    (twice_the_rate, "a patient's chance to be in a step"),
    (patients_drawn_by_film, "a patient's chance to be in a step"),
    (divided_by_the_batch, "noise of each layer"),
    (bits_lost_in_encoding, "encoding"),
    (no_masks, "masked words"),
    (masks_at_the_sites_alone, "masked sum"),
    (one_mask_for_all_rounds, "masks of two rounds"),
]
