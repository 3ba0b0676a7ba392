"""The catalogue of events: what the audit logs hold and what the daemons log, by fixed names.

Two frozen tables. An audit event that is not in `AUDIT`, or comes with other fields, is a bug and
raises; a log call with a name that is not in `LOG` fails a test. docs/events.md is made from both:
`python -m primia.events > docs/events.md`.

No field of either holds a patient's id, a number of patients or films, a path below the data root,
a tensor or a secret; but a model owner counts what it was asked, for a budget is made of queries.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

COORDINATOR, WORKER, BOTH = "coordinator", "worker", "both"
MODEL, DATA, DEALER = "model owner", "data owner", "dealer"  # of `primia infer`


@dataclass(frozen=True)
class AuditEvent:
    """One kind of line in an audit log: who writes it, its fields (all of them), what it says."""

    side: str
    fields: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class LogEvent:
    """One event name of a daemon's log."""

    side: str
    meaning: str


_ATTEMPT = ("round", "attempt")

AUDIT: Mapping[str, AuditEvent] = MappingProxyType(
    {
        # --- both sides
        "log_mended": AuditEvent(
            BOTH, ("bytes",),
            "a crash left half a line at the end; it was cut off before this line was written",
        ),
        "started": AuditEvent(BOTH, ("version",), "the daemon opened its folder and checked it"),
        "stopped": AuditEvent(BOTH, (), "the daemon let go of its folder"),
        "plan_pinned": AuditEvent(
            BOTH, ("plan",), "this plan's digest; no other runs in this folder once it has begun"
        ),
        # --- the coordinator
        "authority_made": AuditEvent(
            COORDINATOR, ("study", "fingerprint"), "the study's authority, by its fingerprint"
        ),
        "site_invited": AuditEvent(
            COORDINATOR, ("site", "fingerprint", "expires"),
            "a one-time code was made; fingerprint: of its public half",
        ),
        "site_enrolled": AuditEvent(
            COORDINATOR, ("site", "certificate"), "a code was used; fingerprint of the certificate"
        ),
        "site_struck": AuditEvent(
            COORDINATOR, ("site",), "the site is refused from its next call on; open codes are void"
        ),
        "site_readmitted": AuditEvent(
            COORDINATOR, ("site", "attempt"),
            "a person let a benched site in again; the last attempt until then",
        ),
        "site_renewed": AuditEvent(
            COORDINATOR, ("site", "certificate"),
            "a newer certificate for the same key; by its fingerprint",
        ),
        "coordinator_renewed": AuditEvent(
            COORDINATOR, ("certificate",), "the coordinator's own certificate, for the same key"
        ),
        "authority_rotated": AuditEvent(
            COORDINATOR, ("fingerprint",), "a new authority, endorsed by the one before it"
        ),
        "authority_retired": AuditEvent(
            COORDINATOR, ("fingerprint",), "nothing that this authority certified is valid any more"
        ),
        "call_refused": AuditEvent(
            COORDINATOR, ("caller", "reason", "left_out"),
            "a caller was refused, or failed the handshake before anybody knew it; left_out: how "
            "many before this one were not written: one line a minute, caller and reason is enough",
        ),
        "round_opened": AuditEvent(
            COORDINATOR, (*_ATTEMPT, "kind", "model"),
            "an attempt begins with this model; no site has been told yet",
        ),
        "round_committed": AuditEvent(
            COORDINATOR, (*_ATTEMPT, "sites", "model"),
            "the sum over these sites counts, and made this model (null: an evaluation). The last "
            "line about an attempt counts: after a crash here it may still be aborted",
        ),
        "round_aborted": AuditEvent(
            COORDINATOR, (*_ATTEMPT, "reason"), "the attempt ends and nothing of it counts"
        ),
        "heads_countersigned": AuditEvent(
            COORDINATOR,
            ("site", "attempt", "ledger", "ledger_digest", "audit", "audit_digest", "signature"),
            "a site's heads (rows of its ledger, lines of its audit log, digest of the last one) "
            "and its signature; older ones are refused from now on",
        ),
        "heads_refused": AuditEvent(
            COORDINATOR, ("site", "attempt", "reason"),
            "a site's heads went back: its folder was put back to an older copy, or runs twice",
        ),
        "coordinator_rolled_back": AuditEvent(
            BOTH, ("site", "lines", "digest"),
            "the coordinator's audit log does not hold the line that this site countersigned: the "
            "coordinator's folder was put back to an older copy",
        ),
        "books_differ": AuditEvent(
            COORDINATOR, ("database", "log"),
            "the newest attempt in coordinator.db and in this log: one of the two was put back to "
            "an older copy",
        ),
        "study_finished": AuditEvent(COORDINATOR, ("reason",), "no round is left to do"),
        "exported": AuditEvent(
            COORDINATOR, ("files",), "report and models were written for taking away"
        ),
        # --- the worker
        "enrolled": AuditEvent(
            WORKER, ("site", "certificate", "authority"), "this site's identity, by fingerprints"
        ),
        "certificate_renewed": AuditEvent(
            WORKER, ("certificate", "authorities"),
            "this site's certificate and the authorities it trusts from now on, by fingerprints",
        ),
        "plan_approved": AuditEvent(
            WORKER, ("plan", "cohort", "policy", "name", "role"),
            "a person of the hospital approved this plan with this cohort and site policy, by "
            "their digests",
        ),
        "plan_refused": AuditEvent(
            WORKER, ("name", "role", "reason"), "a person took every approval back"
        ),
        "quality_shared": AuditEvent(
            WORKER, ("plan", "model", "file", "name", "role"),
            "a person of the hospital had figures about a model on its films written for others: "
            "the model's digest and the file's",
        ),
        "plan_declined": AuditEvent(
            WORKER, ("reason",), "this site does not take part in the coordinator's plan"
        ),
        "model_accepted": AuditEvent(
            WORKER, ("model", "name", "role"),
            "a person of the hospital answers for this model (SHA-256), which lies farther from "
            "the last one than honest rounds move it",
        ),
        "peer_pinned": AuditEvent(
            WORKER, ("site", "key"), "another site's public key (SHA-256), as first seen"
        ),
        "peer_forgotten": AuditEvent(
            WORKER, ("site",), "an operator dropped the pin, after comparing by telephone"
        ),
        "charged": AuditEvent(
            WORKER, (*_ATTEMPT, "ledger", "update"),
            "an update (SHA-256) was charged to the privacy ledger, as this row; it has not left",
        ),
        "keys_made": AuditEvent(
            WORKER, _ATTEMPT, "keys for this attempt are about to be shown; never again for it"
        ),
        "survivors_signed": AuditEvent(
            WORKER, (*_ATTEMPT, "survivors"),
            "the only list of sites whose sum this site helps to open in this attempt",
        ),
        "shares_revealed": AuditEvent(
            WORKER, (*_ATTEMPT, "survivors", "lost"),
            "of survivors the share of the self mask, of the lost that of the key; never both",
        ),
        "update_sent": AuditEvent(
            WORKER, (*_ATTEMPT, "update"),
            "this update leaves now, noised and masked; a repeat of the call has no second line",
        ),
        "round_left": AuditEvent(
            WORKER, (*_ATTEMPT, "reason"), "this site refused an instruction and left the attempt"
        ),
        "head_countersigned": AuditEvent(
            WORKER,
            ("attempt", "ledger", "ledger_digest", "audit", "audit_digest",
             "coordinator", "coordinator_digest", "signature"),
            "the coordinator's signature over this site's heads and over its own audit log's head",
        ),
        "rollback_found": AuditEvent(
            WORKER, ("reason",), "this folder is older than what left it; nothing was trained"
        ),
        # --- encrypted prediction (enrolment is told by the same events as a study's)
        "model_served": AuditEvent(
            MODEL, ("program", "model_version", "weights"),
            "a model version is served for the first time, under a mask of its own; digests of "
            "the program and of the model file",
        ),
        "budget_set": AuditEvent(
            MODEL, ("site", "queries", "per_day"),
            "what a data owner may ask from now on; a query is one film",
        ),
        "batch_checked": AuditEvent(
            MODEL, ("site", "batch", "sessions", "opened"),
            "the opened sessions of a batch hold what was dealt; the others may be used",
        ),
        "batch_refused": AuditEvent(
            MODEL, ("site", "batch"), "an opened session does not; the batch was discarded"
        ),
        "query_charged": AuditEvent(
            MODEL, ("site", "number", "queries", "left"),
            "a session begins: its films are charged and its material is deleted, whatever comes "
            "of it; number: the session's counter",
        ),
        "material_held": AuditEvent(
            DATA, ("batch", "sessions"), "the seeds of a batch arrived; not yet to be used"
        ),
        "session_begun": AuditEvent(
            DATA, ("session", "number"), "a session begins: its seed is deleted; never again"
        ),
        "dealer_trusted": AuditEvent(
            DATA, ("fingerprint",), "this dealer's certificate, and no other, from now on"
        ),
        "batch_dealt": AuditEvent(
            DEALER, ("site", "batch", "program", "sessions"),
            "a batch was ordered for a data owner, and is dealt; nothing of it is kept",
        ),
    }
)  # fmt: skip

LOG: Mapping[str, LogEvent] = MappingProxyType(
    {
        # --- both sides
        "stopped": LogEvent(BOTH, "the process ends, resumable"),
        "study_over": LogEvent(BOTH, "no round is left"),
        "metrics": LogEvent(BOTH, "where the metrics are served"),
        "coordinator_rolled_back": LogEvent(
            BOTH, "the coordinator's folder is older than what a site countersigned"
        ),
        "certificate_ends": LogEvent(BOTH, "days left of a certificate, once a day; what to do"),
        # --- the coordinator
        "site_certificate_renewed": LogEvent(COORDINATOR, "a site has a newer certificate"),
        "site_certificate_not_renewed": LogEvent(COORDINATOR, "who has to do what, once a day"),
        "coordinator_certificate_renewed": LogEvent(COORDINATOR, "served to new connections"),
        "coordinator_certificate_not_renewed": LogEvent(COORDINATOR, "what to do, once a day"),
        "listening": LogEvent(COORDINATOR, "sites may dial in; likewise model owner and dealer"),
        "site_attends": LogEvent(COORDINATOR, "first sign of life of a site in this run"),
        "round_opened": LogEvent(COORDINATOR, "an attempt begins"),
        "phase": LogEvent(COORDINATOR, "where the attempt stands, and whom it waits for"),
        "round_committed": LogEvent(COORDINATOR, "a round counts; scores of its model"),
        "round_aborted": LogEvent(COORDINATOR, "an attempt ended without a sum"),
        "model_rejected": LogEvent(COORDINATOR, "the sites voted a model down"),
        "call_refused": LogEvent(COORDINATOR, "a caller was refused by its certificate"),
        "handshake_failed": LogEvent(COORDINATOR, "who dialled could not show what TLS asks for"),
        "refusal_not_kept": LogEvent(COORDINATOR, "a failed handshake is not on the audit log"),
        "trouble_not_kept": LogEvent(COORDINATOR, "a renewal that failed is not in `why`"),
        "late_answer": LogEvent(COORDINATOR, "a site answered after the round went on without it"),
        "call_failed": LogEvent(COORDINATOR, "a fault of our own, under an incident number"),
        "certificates_not_read": LogEvent(COORDINATOR, "the last good ones are served on"),
        "heads_refused": LogEvent(COORDINATOR, "a site's ledger or audit log went back"),
        "books_differ": LogEvent(COORDINATOR, "database and audit log are not of one age"),
        # --- the worker
        "certificate_renewed": LogEvent(WORKER, "in use from now on"),
        "certificate_not_renewed": LogEvent(WORKER, "why, once a day; tried again"),
        "authorities_trusted": LogEvent(WORKER, "the study's authority is being replaced, or was"),
        "roster_refused": LogEvent(WORKER, "a certificate or authority that does not hold"),
        "plan_fits": LogEvent(WORKER, "signature, pin and caps hold; the ε it costs"),
        "waiting_for_approval": LogEvent(WORKER, "what people have yet to approve"),
        "approved": LogEvent(WORKER, "the approval is in force, and whose it is"),
        "outside_hours": LogEvent(WORKER, "trains nothing until the hours its site file allows"),
        "films": LogEvent(WORKER, "a warning about the films as a whole"),
        "delta_too_large": LogEvent(WORKER, "the plan's δ is not small for this cohort"),
        "processes_unused": LogEvent(WORKER, "more processes than the plan can use"),
        "taking_part": LogEvent(WORKER, "ready; waits for rounds"),
        "coordinator_unreachable": LogEvent(WORKER, "why, and when the next try is"),
        "stream_broken": LogEvent(WORKER, "an upload or download broke and goes on from `arrived`"),
        "instruction_refused_by_coordinator": LogEvent(WORKER, "an answer came too late or twice"),
        "working": LogEvent(WORKER, "local work for an attempt begins"),
        "update_reused": LogEvent(WORKER, "the stored update is offered again, uncharged"),
        "update_of_other_films": LogEvent(
            WORKER, "the stored update is not offered: the films changed since it was made"
        ),
        "update_clipped": LogEvent(WORKER, "coordinates beyond the plan's encoding range"),
        "charged": LogEvent(WORKER, "an update is on the ledger; ε spent so far"),
        "update_sent": LogEvent(WORKER, "the masked update is at the coordinator"),
        "cannot_take_part": LogEvent(WORKER, "films, budget or model do not allow this round"),
        "model_accepted": LogEvent(WORKER, "a model that a person accepted by its digest"),
        "model_not_kept": LogEvent(
            WORKER, "weights of an earlier model are gone; older ones have to do"
        ),
        "round_left": LogEvent(WORKER, "this site refused an instruction"),
        "round_resumed": LogEvent(
            BOTH, "after a restart: on with the attempt that this process was in"
        ),
        "round_not_resumed": LogEvent(
            WORKER, "what was kept of the attempt does not hold any more; it is left"
        ),
        "blobs_not_swept": LogEvent(
            COORDINATOR, "a file of no more use cannot be deleted now; tried again later"
        ),
        "attempt_not_resumed": LogEvent(
            COORDINATOR, "what was kept of the attempt is damaged; the round starts anew"
        ),
        "decline_not_needed": LogEvent(WORKER, "the attempt had ended before we could decline"),
        "round_closed": LogEvent(WORKER, "how the attempt ended"),
        "countersigned": LogEvent(WORKER, "both sides hold each other's heads"),
        "countersign_later": LogEvent(WORKER, "the heads could not be handed over; tried again"),
        # --- encrypted prediction
        "enrolled": LogEvent(MODEL, "a data owner or the dealer used its code"),
        "stocked": LogEvent(MODEL, "a batch for a data owner is on disk"),
        "stock_discarded": LogEvent(
            MODEL, "another model version, or other terms, than data owners had stocked for"
        ),
        "batch_refused": LogEvent(MODEL, "an opened session does not hold what was dealt"),
        "prediction_ended": LogEvent(MODEL, "and how: done, refused (by us) or broken"),
        "dealing": LogEvent(DEALER, "a batch is made while it is sent"),
        "delivered": LogEvent(DEALER, "the data owner has its seeds; the batch is forgotten"),
    }
)


def as_markdown() -> str:
    """Both tables as docs/events.md."""
    lines = [
        "# Events",
        "",
        "Made from `primia/events.py` by `python -m primia.events`; do not edit by hand.",
        "",
        "## Audit logs",
        "",
        "`audit.jsonl` in the state folder of either side. A line is a JSON object of `number`,",
        "`time` (UTC), `event`, `fields`, `previous` (digest of the line before) and `digest`: the",
        "SHA-256 of `primia audit log v1`, a line feed, and the others as a JSON array in this",
        "order, without spaces.",
        "",
        "| event | who | fields | meaning |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {e.side} | {', '.join(e.fields) or '–'} | {e.meaning} |"
            for name, e in AUDIT.items()
        ),
        "",
        "## Logs",
        "",
        "The `event` of each line on standard error (`--log-json`: one JSON object a line).",
        "",
        "| event | who | meaning |",
        "|---|---|---|",
        *(f"| `{name}` | {e.side} | {e.meaning} |" for name, e in LOG.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
