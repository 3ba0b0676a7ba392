"""What is attacked is what a site really sends, bit for bit where the entropy is the same."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from primia.audit.films import resized
from primia.audit.networks import first_network, network_of
from primia.audit.release import Releases, Rows
from primia.errors import ConfigError
from primia.imaging.dataset import Films
from primia.learning.insecure import InsecureEntropyWarning, insecure_seeded_entropy
from primia.learning.local import train_locally
from primia.learning.models import flatten
from primia.learning.noise import Entropy
from tests.audit.scene import case


def seeded() -> Entropy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureEntropyWarning)
        return insecure_seeded_entropy(7)


def few(films: Films, count: int) -> Films:
    mask = np.zeros(len(films), bool)
    mask[:count] = True
    return films.select(mask)


def norm(gradient: list[torch.Tensor]) -> float:
    return float(torch.cat([g.flatten() for g in gradient]).norm())


def warmed() -> tuple[torch.nn.Module, Films]:
    """A network whose head is not zero any more, and a few films."""
    made = case(patients=20)
    model = first_network(made.plan)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return model, few(made.films, 6)


def test_the_noised_release_is_the_update_of_a_step_of_local_training() -> None:
    model, films = warmed()
    plan = case(patients=20).plan
    releases = Releases(model, plan, seeded())
    terms = replace(releases.terms, sampling_rate=1.0, local_steps=1, momentum=0.0)
    # Sampling and the choice of films take entropy before the noise does: so it does here.
    entropy = seeded()
    entropy(8 * films.patient_count)
    entropy(8 * len(films))
    releases = Releases(model, plan, entropy)
    released = releases.noised(Rows.of(films, range(len(films))))
    sent = train_locally(terms, flatten(model), films, entropy=seeded()).delta
    scale = -terms.learning_rate / terms.expected_patients
    ours = torch.cat([g.flatten() for g in released]).numpy() * scale
    np.testing.assert_allclose(ours, sent, rtol=1e-3, atol=2e-6)


def test_a_plain_release_is_the_gradient_of_autograd_and_a_clipped_one_is_within_the_norm() -> None:
    model, films = warmed()
    releases = Releases(model, case(patients=20, clip_norm=0.01).plan)
    one = Rows.of(films, [0])
    assert norm(releases.plain(one)) > 0.02
    assert norm(releases.clipped(one)) == pytest.approx(0.01, rel=2e-3)
    both = Rows.of(films, range(6))
    assert both.units < 6
    assert norm(releases.clipped(both)) <= 0.01 * both.units


def test_noise_has_the_plans_deviation_in_every_coordinate() -> None:
    model, films = warmed()
    releases = Releases(model, case(patients=20, clip_norm=2.0, noise_multiplier=1.5).plan)
    one = Rows.of(films, [0])
    bare = torch.cat([g.flatten() for g in releases.clipped(one)])
    noise = torch.cat([g.flatten() for g in releases.noised(one)]) - bare
    assert float(noise.std()) == pytest.approx(3.0, rel=6 / (2 * noise.numel()) ** 0.5)


def test_a_masked_sum_is_the_sum_of_its_gradients_up_to_the_encoding() -> None:
    model, films = warmed()
    releases = Releases(model, case(patients=20).plan)
    gradients = [releases.clipped(Rows.of(films, [i])) for i in range(4)]
    summed, _ = releases.masked(gradients)
    wanted = [torch.stack(parts).sum(0) for parts in zip(*gradients, strict=True)]
    step = 4 * 64 / 0.3 * 8 / 2**22  # sites × divisor / rate × encoding step
    for ours, true in zip(summed, wanted, strict=True):
        torch.testing.assert_close(ours, true, rtol=0, atol=step)


def test_a_plan_without_privacy_has_nothing_to_attack() -> None:
    made = case(patients=20)
    bare = made.plan.model_copy(update={"privacy": "none"})
    with pytest.raises(ConfigError, match="privacy: none"):
        Releases(first_network(bare), bare).clipped(Rows.of(made.films, [0]))


def test_an_exported_model_is_attacked_and_another_plans_is_refused(tmp_path: Path) -> None:
    model, _ = warmed()
    plan = case(patients=20).plan
    path = tmp_path / "model-best.safetensors"
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        path,
        metadata={"format": "primia-model/1", "terms": plan.model.model_dump_json()},
    )
    np.testing.assert_array_equal(flatten(network_of(plan, path)), flatten(model))
    with pytest.raises(ConfigError, match="the plan says otherwise"):
        network_of(resized(plan, 32), path)
