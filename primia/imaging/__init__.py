"""Films to arrays: readers, checks, the split by patient, synthetic films. No torch here."""

from primia.imaging.dataset import Cohort, Films
from primia.imaging.division import Divided, divide_npz
from primia.imaging.export import write_site_npz
from primia.imaging.readers import load_cohort
from primia.imaging.split import divide, patient_split
from primia.imaging.synth import synthesise, synthesise_sites

__all__ = [
    "Cohort",
    "Divided",
    "Films",
    "divide",
    "divide_npz",
    "load_cohort",
    "patient_split",
    "synthesise",
    "synthesise_sites",
    "write_site_npz",
]
