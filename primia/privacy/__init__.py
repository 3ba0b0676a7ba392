"""What a release costs a patient: mechanisms as data, accounting, and the hospital's ledger."""

from primia.privacy.accounting import calibrate_noise, epsilon, epsilon_rdp
from primia.privacy.ledger import Head, Ledger, Row
from primia.privacy.mechanism import DpSgd

__all__ = [
    "DpSgd",
    "Head",
    "Ledger",
    "Row",
    "calibrate_noise",
    "epsilon",
    "epsilon_rdp",
]
