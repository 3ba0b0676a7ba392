"""The attack on membership, broken on purpose: each would make a bad model look safe, or a safe
one bad, or tell of patients what is not to be told."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

MODELS = "primia/audit/membership.py"
SCORES = "primia/audit/membership_scores.py"
RATES = "primia/audit/membership_rates.py"
FINDING = "primia/audit/membership_finding.py"
SUITE = {
    MODELS: ("tests/audit/test_membership.py",),
    SCORES: ("tests/audit/test_membership_scores.py",),
    RATES: ("tests/audit/test_membership_rates.py", "tests/audit/test_membership_finding.py"),
    FINDING: ("tests/audit/test_membership_finding.py",),
}


def _mutation(name: str, file: str, before: str, after: str) -> Mutation:
    return Mutation(name, file, before, after, SUITE[file])


MEMBERSHIP_MUTATIONS = (
    _mutation(
        "references are split by film",
        MODELS,
        "return films.select(members[films.patients])",
        "return films.select(members[np.arange(len(films)) % members.size])",
    ),
    _mutation(
        "some patients are in every reference",
        MODELS,
        "np.stack([coins, ~coins], axis=1)",
        "np.stack([coins, coins], axis=1)",
    ),
    _mutation(
        "who is trained on follows from the films",
        MODELS,
        "np.random.default_rng([self.seed, _SPLITS, 2 + i])",
        "np.random.default_rng(self.seed)",
    ),
    _mutation(
        "the plan is rehearsed without its noise",
        MODELS,
        "    terms = LocalTerms.of(plan)\n",
        "    terms = replace(LocalTerms.of(plan), privacy=None)\n",
    ),
    _mutation(
        "members of the targets are forgotten",
        MODELS,
        "return self._outcome(Trials(np.array(scores), members), fit)",
        "return self._outcome(Trials(np.array(scores), ~members), fit)",
    ),
    _mutation(
        "LiRA takes members for others",
        SCORES,
        "ratio = _log_normal(target, with_it, spread_with)",
        "ratio = _log_normal(target, without, spread_with)",
    ),
    _mutation(
        "RMIA forgets the references with the film",
        SCORES,
        "prior = (_means(chance, inside) + _means(chance, ~inside)) / 2",
        "prior = _means(chance, ~inside)",
    ),
    _mutation(
        "a patient's films are not added up",
        SCORES,
        "return np.bincount(patients, weights=films, minlength=count).astype(np.float64)",
        "return films[np.searchsorted(np.sort(patients), np.arange(count)) % films.size]",
    ),
    _mutation("a rate rests on no false alarm", RATES, "if alarms < MEASURABLE", "if alarms < 0"),
    _mutation(
        "the threshold is above every other patient",
        RATES,
        "threshold = outside[alarms]",
        "threshold = outside[0]",
    ),
    _mutation(
        "false alarms count as measured, not as they may be",
        RATES,
        "self.fpr(error).high + delta",
        "self.fpr(error).low + delta",
    ),
    _mutation(
        "each film counts as a patient of its own in the interval",
        RATES,
        "sums = parts.reshape(trials.scores.shape).sum(0)",
        "sums = parts",
    ),
    _mutation(
        "held though the attack finds nobody",
        FINDING,
        "return near and clear and better_than_chance(case.control.trials)",
        "return near and clear",
    ),
    _mutation("held by too few trials", FINDING, "return near and", "return"),
    _mutation("held in spite of a trace", FINDING, "near and clear and", "near and"),
    _mutation(
        "the claim is not tried",
        FINDING,
        "if case.claim is not None and beyond(case.attacked.trials, case.claim):",
        "if False:",
    ),
    _mutation(
        "the number of patients is told",
        FINDING,
        '"trials_of_members_at_least": floor(attacked.trials.inside)',
        '"trials_of_members_at_least": attacked.trials.inside',
    ),
    _mutation(
        "small groups are told",
        FINDING,
        "yield name, None if few else",
        "yield name, None if False else",
    ),
    Mutation(
        "an exported model's members are split by another key",
        "primia/cli/attack_membership.py",
        "VALIDATION_KEY if key is None else keyfile.load(key)",
        "VALIDATION_KEY",
        ("tests/cli/test_attack_membership.py",),
    ),
)
