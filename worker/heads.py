"""This site's books against copies of themselves: at the start, and after each attempt.

Ledger, database and audit log guard each other. That all three were put back together is found by
the heads that the coordinator holds under this site's own signature.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

import structlog

from primia.errors import IdentityError, PeerError, StateError, Unreachable
from primia.identity.certificate import fingerprint, from_pem, to_pem
from primia.identity.heads import Countersigned, Mark, SignedHeads, SiteHeads, sign_heads
from primia.privacy import Head as LedgerHead
from primia.privacy import Ledger
from primia.storage.audit_log import Head, read
from primia.types import Digest
from worker.home import SiteIdentity
from worker.state import WorkerState

log = structlog.get_logger()


class HeadsLink(Protocol):
    """The coordinator, as far as heads go (see `primia.wire.client.FederationClient`)."""

    def last_heads(self, seen: Countersigned | None) -> SignedHeads | None:
        """What it holds of our books."""

    def countersign(self, heads: SignedHeads, seen: Countersigned | None) -> Countersigned:
        """Hand newer ones over."""


class Heads:
    """Hands this site's heads over, and holds its books against those the coordinator has.

    identity: as it is now; its certificate may be renewed while the daemon runs.
    """

    def __init__(
        self,
        identity: SiteIdentity,
        plan: Digest,
        state: WorkerState,
        ledger: Ledger,
        link: HeadsLink,
    ) -> None:
        self.identity = identity
        self._plan = plan
        self._state = state
        self._ledger = ledger
        self._link = link

    def check(self) -> bool:
        """Do our books still hold what we signed for the coordinator? Call it before training.

        True, or it raises: StateError when they were put back, IdentityError when the coordinator
        shows heads that this site never signed, Unreachable.
        """
        try:
            held = self._link.last_heads(self._state.countersigned())
        except PeerError as err:  # it does not know its own word: its log was written anew
            log.warning("coordinator_rolled_back", reason=str(err))
            held = self._link.last_heads(None)
        if held is None:
            return True
        self._check_ours(held)
        heads = held.heads
        try:
            self._ledger.verify(at_least=LedgerHead(heads.ledger.count, heads.ledger.digest))
            self._state.audit.verify(at_least=Head(heads.audit.count, heads.audit.digest))
        except StateError as err:
            self._state.audit.append("rollback_found", reason=_without_path(err))
            raise StateError(
                f"{err}. This site has signed for more at the coordinator (attempt "
                f"{heads.attempt}): the folder was put back to an older copy. Restore the newest "
                "copy of the whole folder; nothing was trained"
            ) from err
        return True

    def _check_ours(self, held: SignedHeads) -> None:
        """A coordinator that lies cannot stop us with heads of its own making, and is told on."""
        try:
            signer = from_pem(held.certificate)
            own = signer.public_key() == self.identity.key.public_key() or (
                fingerprint(signer) in self._former_certificates()
            )
            ours = own and held.holds()
        except IdentityError:
            ours = False
        if not ours or held.heads.site != self.identity.site or held.heads.plan != self._plan:
            raise IdentityError(
                "the coordinator shows heads of our books that this site did not sign; nothing was "
                "trained. Tell its operator, and check that this folder is this site's newest copy"
            )

    def _former_certificates(self) -> set[str]:
        """Fingerprints of what this site was ever enrolled with, from its own audit log."""
        lines, _ = read(self._state.audit.path)
        return {x.fields["certificate"] for x in lines if x.event == "enrolled"}

    def exchange(self, attempt: int) -> bool:
        """Hand our heads over and keep the coordinator's word for them; False: try again later.

        Raises StateError when our books turn out to have been put back meanwhile.
        """
        seen = self._state.countersigned()
        ledger, audit = self._ledger.head(), self._state.audit.head()
        heads = SiteHeads(
            plan=self._plan,
            site=self.identity.site,
            attempt=attempt,
            ledger=Mark(ledger.rows, ledger.digest),
            audit=Mark(audit.lines, audit.digest),
        )
        signed = sign_heads(heads, self.identity.key, to_pem(self.identity.certificate))
        try:
            answer = self._link.countersign(signed, seen)
            answer.check(self.identity.roots, now=datetime.now(UTC))
            if answer.heads != heads:
                raise PeerError("the coordinator countersigned other heads than ours")
        except Unreachable as err:
            log.info("countersign_later", reason=str(err))
            return False
        except (PeerError, IdentityError) as err:
            log.warning("countersign_later", reason=str(err))
            self.check()  # if we went back, this raises; if the coordinator errs, we go on
            return False
        self._keep(answer, seen)
        log.info("countersigned", attempt=attempt)
        return True

    def _keep(self, answer: Countersigned, seen: Countersigned | None) -> None:
        if seen is not None and answer.audit.went_back(seen.audit):
            # Legal after a restored backup; its operator sees the same in `why`.
            log.warning("coordinator_rolled_back", line=seen.audit.count)
            self._state.audit.append(
                "coordinator_rolled_back",
                site=self.identity.site,
                lines=seen.audit.count,
                digest=seen.audit.digest,
            )
        heads = answer.heads
        self._state.audit.append(
            "head_countersigned",
            attempt=heads.attempt,
            ledger=heads.ledger.count,
            ledger_digest=heads.ledger.digest,
            audit=heads.audit.count,
            audit_digest=heads.audit.digest,
            coordinator=answer.audit.count,
            coordinator_digest=answer.audit.digest,
            signature=answer.signature.hex(),
        )
        self._state.keep_countersigned(answer)


def _without_path(err: StateError) -> str:
    """The audit log may be handed on: no folder of ours."""
    return str(err).partition(": ")[2]
