"""How long a certificate still lasts, when to renew it, and when to say so."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from cryptography import x509

WARN_DAYS = (1, 7, 30)
"""With so many days left, or fewer, a person is told: once a day for each of these."""

_RENEW_AT = 1 / 3  # of the certificate's life; the rest is room for an authority kept offline


def days_left(certificate: x509.Certificate, now: datetime) -> float:
    """Days until `certificate` ends; negative once it has. now: aware."""
    return (certificate.not_valid_after_utc - now) / timedelta(days=1)


def renewal_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether less than a third of the certificate's life is left."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now < life * _RENEW_AT


def threshold(days: float) -> int | None:
    """The smallest of `WARN_DAYS` that `days` has come down to; None while there is time."""
    return next((limit for limit in WARN_DAYS if days <= limit), None)


class Notices:
    """Remembers what was said, so that each thing is said once a day and not at every look."""

    def __init__(self) -> None:
        self._said: set[tuple[str, object]] = set()
        self._day = date.min

    def first_today(self, topic: str, detail: object, now: datetime) -> bool:
        """Whether `detail` of `topic` has not been said on this day."""
        if now.date() != self._day:
            self._said.clear()
            self._day = now.date()
        fresh = (topic, detail) not in self._said
        self._said.add((topic, detail))
        return fresh

    def expiry(self, topic: str, certificate: x509.Certificate, now: datetime) -> int | None:
        """Days left (0 when it is over), if a person should hear of them now; else None."""
        days = days_left(certificate, now)
        limit = threshold(days)
        if limit is None or not self.first_today(topic, limit, now):
            return None
        return max(0, int(days))
