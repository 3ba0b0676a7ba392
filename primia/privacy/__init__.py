"""What a release costs a patient: mechanisms as data, accounting, and the hospital's ledger."""

from primia.privacy.accounting import epsilon, epsilon_gdp, epsilon_rdp
from primia.privacy.calibration import calibrate_noise, calibrate_rate, calibrate_steps
from primia.privacy.ledger import Head, Ledger, Row
from primia.privacy.mechanism import DpSgd, gradient_noise_multiplier

__all__ = [
    "DpSgd",
    "Head",
    "Ledger",
    "Row",
    "calibrate_noise",
    "calibrate_rate",
    "calibrate_steps",
    "epsilon",
    "epsilon_gdp",
    "epsilon_rdp",
    "gradient_noise_multiplier",
]
