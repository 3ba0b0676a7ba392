"""What holds in every study: what is kept, what protects it, which rights and risks there are."""

from __future__ import annotations

from typing import Literal

RETENTION = (
    ("films and tables", "hospital, where they were before", "as the hospital's own rules say"),
    (
        "ledger.db: what was released of which cohort, by keyed fingerprints of patients",
        "hospital",
        "for good: it is the proof of what was spent; without it no worker starts",
    ),
    (
        "worker.db, manifests/: decisions with names, the approved cohort by fingerprints",
        "hospital",
        "until the hospital deletes the worker's folder",
    ),
    (
        "audit.jsonl: what was done when; no patient and no film",
        "hospital and coordinator",
        "until the folder is deleted",
    ),
    (
        "the last noised update; secrets of the round, for its masks",
        "hospital",
        "the update until the next one; secrets until the round is closed, then overwritten",
    ),
    (
        "coordinator.db, blobs/: models, summed counts, who took part",
        "coordinator",
        "until its folder is deleted",
    ),
    ("report, exported models", "wherever the lead takes them", "as agreed with the lead"),
)

DP_SGD = (
    "bounded influence of a patient",
    "DP-SGD with patients as the unit; noise from the operating system's entropy",
    "docs/privacy.md",
)

MEASURES = (
    (
        "films stay",
        "training at the hospital; no command or message of primia carries a film out",
        "docs/threat-model.md",
    ),
    (
        "nobody reads one hospital's update",
        "masked aggregation, at least three hospitals in a sum, enforced by the worker",
        "docs/protocol.md",
    ),
    (
        "budget over all studies",
        "ledger charged on disk before a byte leaves; refuses when the cap is reached",
        "docs/privacy.md",
    ),
    (
        "decision by people",
        "nothing is trained before plan and cohort are approved by name; any change asks again",
        "docs/operations.md",
    ),
    (
        "encryption and identity on the way",
        "TLS 1.3 with certificates on both sides; the hospital only dials out",
        "docs/threat-model.md",
    ),
    (
        "pseudonyms",
        "patients as keyed fingerprints (HMAC-SHA256), the key at the hospital",
        "docs/privacy.md",
    ),
    (
        "records that cannot be changed unseen",
        "hash-chained ledger and audit logs, heads signed by both sides after each attempt",
        "docs/protocol.md",
    ),
    (
        "hostile files",
        "films decoded in child processes with limits of memory and time",
        "docs/films.md",
    ),
    (
        "least rights",
        "user of its own, read-only system, no inbound port (systemd unit, containers)",
        "docs/install.md",
    ),
    ("disk encryption, access to the machine, backup, staff", "", ""),
)

RIGHTS = (
    (
        "Withdrawal, objection (Art. 7(3), 21)",
        "primia-worker ledger withdraw PATIENT: the patient is in no later training, and the "
        "change of the cohort asks for a new approval",
    ),
    (
        "Erasure (Art. 17)",
        "films are erased where the hospital keeps them. What was released before, and models made "
        "from it, cannot be taken back; ε bounds what they show. The ledger keeps a keyed "
        "fingerprint. Whether Art. 17(3)(d) applies is the hospital's decision",
    ),
    (
        "Access and information (Art. 13 to 15)",
        "this annex, the signed statement of primia-worker ledger statement, the audit log's "
        "export; what a patient is told is the hospital's to write",
    ),
    ("What patients were told, and when", ""),
)


def always_residual(
    sites: int, noise: Literal["none", "site", "distributed"]
) -> tuple[tuple[str, ...], ...]:
    """Risks that no plan takes away. sites: how many hospitals are in the study."""
    few = "at most a fifth" if sites > 100 else "fewer than a third"
    opened = {
        "none": "with more, single updates can be opened, which hold no noise at all",
        "site": "with more, single updates can be opened; ε still holds, because each holds all of "
        "its noise",
        "distributed": "with more, single updates can be opened, which hold a share of the noise",
    }[noise]
    bias = "a bias within these bounds; it harms the model"
    if noise == "distributed":
        bias += ", and leaving the share of noise out makes it one of those that collude"
    return (
        (
            "counts on held-out patients are exact",
            "they leave inside the masked sum of three hospitals or more only",
            "who chooses which hospitals drop out can learn roughly this hospital's confusion "
            "counts, though of no single patient directly",
        ),
        (
            "hospitals collude with the coordinator",
            f"masks hold while {few} of the hospitals do",
            opened,
        ),
        (
            "the study authority's key lies with the coordinator",
            "keys of the other hospitals are pinned when first seen",
            "a lie before that moment: compare fingerprints by telephone",
        ),
        (
            "a hospital poisons the model",
            "bounds on the sum; norms, votes and groups if the plan has them",
            bias,
        ),
        (
            "people with root on the hospital's machine",
            "none by primia",
            "films and keys are in the clear for them",
        ),
        ("what else this hospital sees", "", ""),
    )
