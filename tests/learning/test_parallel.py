import multiprocessing
from dataclasses import replace

import numpy as np
import pytest

from primia.errors import DataError, StateError
from primia.learning.local import train_locally
from primia.learning.models import build_for, flatten
from primia.learning.parallel import train_on_devices
from primia.learning.terms import Privacy


def start(terms):
    return flatten(build_for(terms.model, seed=1))


def one_film_each(films):
    return films.select(np.diff(films.patients, prepend=-1) > 0)


def test_two_processes_make_the_update_of_one_and_report_each_step_once(terms, films):
    # Whole cohort in each step, one film a patient and next to no noise: nothing is left to chance.
    quiet = Privacy(clip_norm=1.0, noise_multiplier=1e-7)
    terms = replace(terms, sampling_rate=1.0, privacy=quiet)
    films, steps = one_film_each(films), []
    alone = train_locally(terms, start(terms), films)
    both = train_on_devices(
        terms, start(terms), films, ("cpu", "cpu"), on_step=lambda *step: steps.append(step)
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert (both.steps, both.patients) == (alone.steps, alone.patients)
    assert np.linalg.norm(both.delta - alone.delta) < 1e-4 * np.linalg.norm(alone.delta)


def test_noise_is_added_once_however_many_processes_there_are(terms, films):
    terms = replace(terms, sampling_rate=1e-12, local_steps=1, learning_rate=1.0)
    delta = train_on_devices(terms, start(terms), films, ("cpu", "cpu")).delta
    # 14,307 weights: relative spread of the sample deviation 0.6 %; five of them, false alarm
    # 6e-7. Noise from both processes would be larger by 41 %.
    assert delta.std() == pytest.approx(1.0 / terms.expected_patients, rel=0.03)


def test_a_process_that_dies_ends_the_round_and_leaves_none_behind(terms, films):
    def kill_one(*_):
        multiprocessing.active_children()[-1].kill()

    terms = replace(terms, local_steps=50)
    with pytest.raises(StateError, match="ended early"):
        train_on_devices(terms, start(terms), films, ("cpu", "cpu"), on_step=kill_one)
    assert not multiprocessing.active_children()


def test_films_that_do_not_fit_are_refused_before_a_process_starts(terms, films):
    terms = replace(terms, model=terms.model.model_copy(update={"input_size": 32}))
    with pytest.raises(DataError, match="32 px"):
        train_on_devices(terms, start(terms), films, ("cpu", "cpu"))
