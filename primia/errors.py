"""Errors, sorted by who must act.

    PrimiaError
    ├── ConfigError       the operator edits a file or a flag
    ├── DataError         the data steward looks at a film, a table or a folder
    ├── IdentityError     IT looks at a certificate, an invitation or a signature
    ├── PolicyRefused     a person at the hospital decides: the site's own policy says no
    │   └── BudgetExhausted   the privacy ledger says no
    ├── StateError        the operator looks at the state folder (disk, lock, damage)
    ├── Unreachable       nobody yet: the link is down, the caller tries again
    │   └── TooManyCalls      the caller slows down
    ├── PeerError         the message of one peer is refused; the peer is dropped, others go on
    └── RoundFailed       nobody: nothing was released, the next attempt starts by itself

Every message names cause and remedy in one line. What is none of these is a bug and is
allowed to end the process loudly.
"""


class PrimiaError(Exception):
    """Base of all errors that primia raises on purpose; the text is fit for a person."""


class ConfigError(PrimiaError):
    """A plan, site file or flag is wrong. Nothing was started. The operator edits it."""


class DataError(PrimiaError):
    """A film, table or folder cannot be used. Nothing was trained on it. The data steward looks."""


class IdentityError(PrimiaError):
    """A certificate, invitation, signature or fingerprint does not hold. Nothing was trusted."""


class PolicyRefused(PrimiaError):
    """The site's own policy outranks the plan and says no. Nothing was released."""


class BudgetExhausted(PolicyRefused):
    """The release would pass the site's privacy cap. Nothing was released; a person decides."""


class StateError(PrimiaError):
    """The state folder is locked, unwritable, full or damaged. What was committed is kept."""


class Unreachable(PrimiaError):
    """The other side did not answer in time. Nothing is lost; try again later."""


class TooManyCalls(Unreachable):
    """One caller asks for more than its share of the coordinator. Nothing was done; ask later."""


class PeerError(PrimiaError):
    """A peer sent something the protocol refuses. It changed nothing; that peer is dropped."""


class RoundFailed(PrimiaError):
    """The round ended without a sum. Nothing was released; the next attempt starts by itself."""
