"""Where this report answers the items of two reporting checklists, and what its authors have to.

CLAIM, 2024 update: Tejani et al., Radiology: Artificial Intelligence 2024;6(4):e240300.
TRIPOD+AI: Collins et al., BMJ 2024;385:e078378. Numbers are theirs, the words are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from primia.report.report import Report

AUTHORS = "to be written by the authors"
_UNMEASURED = "not measured: `primia-worker quality` at a hospital, then `primia report`"

SECTIONS = {
    "data": "Films and hospitals",
    "privacy": "Privacy",
    "quality": "Quality",
    "attendance": "Who took part",
    "plan": "Plan",
    "limits": "What these figures do not say",
    "card": "Model card",
    "digests": "Digests and versions",
}


@dataclass(frozen=True)
class Item:
    """One item. section: where its answer is, "" for the authors; note: what it lacks."""

    number: str
    topic: str
    section: str = ""
    note: str = ""
    measured: bool = False  # answered only by what a hospital measured

    def place(self, report: Report) -> tuple[str, str]:
        """Section of `report` that answers it, and what is still to be said."""
        if self.measured and not report.quality:
            return "", _UNMEASURED
        return self.section, self.note or ("" if self.section else AUTHORS)


CLAIM = (
    Item("1", "Title: the technique"),
    Item("2", "Abstract"),
    Item("3", "Background, intended use and clinical role"),
    Item("4", "Aims and hypotheses"),
    Item("5", "Prospective or retrospective"),
    Item("6", "Goal of the study", "plan", "the purpose, as signed"),
    Item("7", "Data sources", "data", "the hospitals; their archives by the authors"),
    Item("8", "Inclusion and exclusion"),
    Item("9", "Preprocessing", "data", "size and channels; the window of each film by the authors"),
    Item("10", "Selection of subsets"),
    Item("11", "De-identification", "privacy"),
    Item("12", "Missing data"),
    Item("13", "Image acquisition"),
    Item("14", "Reference standard: how it was obtained"),
    Item("15", "Reference standard: why this one"),
    Item("16", "Source of the labels"),
    Item("17", "Annotation of the test films"),
    Item("18", "Variability between and within readers"),
    Item("19", "How films were assigned to partitions", "data", "shares by the authors"),
    Item("20", "Level at which partitions are disjoint", "data"),
    Item("21", "Intended sample size"),
    Item("22", "Description of the model", "card", "layers: by name, in the software"),
    Item("23", "Software and its versions", "digests"),
    Item("24", "First weights", "digests", "random; their digest"),
    Item("25", "Training", "plan"),
    Item("26", "Selection of the final model", "quality"),
    Item("27", "Ensembling", "plan", "none"),
    Item("28", "Metrics", "quality"),
    Item("29", "Uncertainty", "quality", measured=True),
    Item("30", "Robustness", "quality", "between hospitals; more by the authors", measured=True),
    Item("31", "Explainability"),
    Item("32", "Testing on internal data", "quality"),
    Item("33", "Testing on external data", "limits", "none was done here"),
    Item("34", "Registration of a trial"),
    Item("35", "Numbers included and excluded", "data", "what may be told; rest by the authors"),
    Item("36", "Demographic and clinical characteristics"),
    Item("37", "Performance on every partition", "quality", measured=True),
    Item("38", "Estimates of performance and their precision", "quality", measured=True),
    Item("39", "Failure analysis", "quality", "confusion; examples by the authors"),
    Item("40", "Limitations", "limits", "of the method; of the films by the authors"),
    Item("41", "Implications for practice"),
    Item("42", "Full protocol", "plan", "the whole plan and its digest"),
    Item("43", "Availability of software, model and data", "card", "conditions by the authors"),
    Item("44", "Funding"),
)

TRIPOD_AI = (
    Item("1", "Title"),
    Item("2", "Abstract"),
    Item("3a", "Healthcare context and rationale"),
    Item("3b", "Target population, purpose, users", "card", "purpose; more by the authors"),
    Item("3c", "Known health inequalities"),
    Item("4", "Objectives"),
    Item("5a", "Sources of data", "data", "the hospitals; representativeness by the authors"),
    Item("5b", "Dates of the data"),
    Item("6a", "Setting, number and place of centres", "data", "names and number"),
    Item("6b", "Eligibility"),
    Item("6c", "Treatments received"),
    Item("7", "Preparation and checking of data", "data", "size and channels; rest by the authors"),
    Item("8a", "Outcome: definition"),
    Item("8b", "Outcome: who assessed it"),
    Item("8c", "Outcome: blinding"),
    Item("9a", "Predictors: choice", "data", "the film alone"),
    Item("9b", "Predictors: definition and measurement"),
    Item("9c", "Predictors: who assessed them"),
    Item("10", "Sample size"),
    Item("11", "Missing data"),
    Item("12a", "Use of the data, partitions", "data"),
    Item("12b", "Handling of predictors", "plan"),
    Item("12c", "Kind of model, how it was built and validated", "plan"),
    Item("12d", "Heterogeneity between clusters", "quality", "by hospital", measured=True),
    Item("12e", "Measures and plots of performance", "quality"),
    Item("12f", "Model updating", "quality", "none"),
    Item("12g", "How predictions are calculated", "card"),
    Item("13", "Class imbalance", "plan", "no method was used"),
    Item("14", "Fairness", "limits", "no subgroup was measured"),
    Item("15", "Output of the model, thresholds", "quality", "why these by the authors"),
    Item("16", "Training against evaluation data", "data", "same hospitals, other patients"),
    Item("17", "Ethical approval and consent"),
    Item("18a", "Funding"),
    Item("18b", "Conflicts of interest"),
    Item("18c", "Protocol", "plan", "the whole plan and its digest"),
    Item("18d", "Registration"),
    Item("18e", "Data sharing", "data", "no film was shared; other access by the authors"),
    Item("18f", "Code sharing", "digests", "versions; access by the authors"),
    Item("19", "Involvement of patients and the public"),
    Item("20a", "Flow of participants", "data", "what may be told; rest by the authors"),
    Item("20b", "Characteristics of participants"),
    Item("20c", "Comparison with the development data"),
    Item("21", "Numbers in each analysis", "data", "what may be told; rest by the authors"),
    Item("22", "The full model, for predictions by others", "card"),
    Item("23a", "Performance with intervals", "quality", "no subgroups", measured=True),
    Item("23b", "Heterogeneity between clusters", "quality", "by hospital", measured=True),
    Item("24", "Results of model updating", "quality", "none"),
    Item("25", "Interpretation"),
    Item("26", "Limitations", "limits", "of the method; of the films by the authors"),
    Item("27a", "Input of poor quality, in use"),
    Item("27b", "What users have to do and know"),
    Item("27c", "Next steps"),
)
