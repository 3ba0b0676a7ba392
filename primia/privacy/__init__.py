"""What a release costs a patient: mechanisms as data, accounting, and the hospital's ledger."""

from primia.privacy.accounting import epsilon, epsilon_gdp, epsilon_rdp, privacy_profile
from primia.privacy.calibration import calibrate_noise, calibrate_rate, calibrate_steps
from primia.privacy.chain import HEAD_NOTE, Head, Row
from primia.privacy.cohorts import Members, Overlap
from primia.privacy.distributed import NoiseShare, noise_share
from primia.privacy.ledger import Ledger
from primia.privacy.mechanism import (
    DistributedDpSgd,
    DpSgd,
    Mechanism,
    gradient_noise_multiplier,
)
from primia.privacy.reconstruction import reconstruction_bound

__all__ = [
    "HEAD_NOTE",
    "DistributedDpSgd",
    "DpSgd",
    "Head",
    "Ledger",
    "Mechanism",
    "Members",
    "NoiseShare",
    "Overlap",
    "Row",
    "calibrate_noise",
    "calibrate_rate",
    "calibrate_steps",
    "epsilon",
    "epsilon_gdp",
    "epsilon_rdp",
    "gradient_noise_multiplier",
    "noise_share",
    "privacy_profile",
    "reconstruction_bound",
]
