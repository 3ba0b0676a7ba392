"""The site's own file: where its films are, and the caps that outrank any plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from primia.config.strict import Strict, parse_yaml_file, validate


class DataSource(Strict):
    """Films of this site: class folders, a CSV of (file, label, patient), or an NPZ.

    Films of folders and tables are DICOM, PNG or JPEG, told apart by content.
    """

    kind: Literal["folder", "csv", "npz"]
    path: Path  # relative paths are relative to the site file
    patients: Path | None = None  # npz only: CSV that names the patient of each film
    every_film_its_own_patient: bool = False  # say so aloud when no patient ids exist
    ignore_issuer: bool = False  # DICOM: a PatientID is one patient, whoever issued it
    unreadable: Literal["skip", "stop"] = "skip"  # what a film that cannot be read does
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.1  # a larger share stops, too
    sites_column: str | None = None  # npz/csv only: keep rows whose column equals sites_value
    sites_value: str | None = None
    validation_fraction: Annotated[float, Field(gt=0, lt=0.9)] = 0.2  # of the patients

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.sites_column is None) != (self.sites_value is None):
            raise ValueError("sites_column and sites_value go together")
        return self


_HOURS = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"


class Caps(Strict):
    """What this hospital allows, whatever the plan says."""

    max_epsilon: Annotated[float, Field(gt=0, le=1e3)]
    max_delta: Annotated[float, Field(gt=0, lt=1)]
    min_cohort: Annotated[int, Field(ge=3, le=1000)] = 3  # sites in a sum; fewer is refused
    min_patients: Annotated[int, Field(ge=2)] = 20  # training patients at this site
    allow_no_privacy: bool = False  # take part in a plan that says `privacy: none`
    allow_shared_noise: bool = False  # or `noise: distributed`, which relies on other sites
    max_rounds: Annotated[int, Field(ge=1, le=1_000_000)] | None = None  # trained in one study
    hours: Annotated[str, Field(pattern=_HOURS)] | None = None  # training's, local: 19:00-06:00
    max_memory_gib: Annotated[float, Field(ge=1, le=1e5)] | None = None  # of each process, host

    @model_validator(mode="after")
    def _hours_last(self) -> Self:
        if self.hours is not None and len(set(self.hours.split("-"))) == 1:
            raise ValueError(
                "caps.hours begins and ends at the same time; leave it out for any hour"
            )
        return self


def loosened(old: Caps, new: Caps) -> list[str]:
    """Which caps allow more in `new` than in `old`; what an approval was given under."""
    more = {
        "max_epsilon": new.max_epsilon > old.max_epsilon,
        "max_delta": new.max_delta > old.max_delta,
        "min_cohort": new.min_cohort < old.min_cohort,
        "min_patients": new.min_patients < old.min_patients,
        "allow_no_privacy": new.allow_no_privacy and not old.allow_no_privacy,
        "allow_shared_noise": new.allow_shared_noise and not old.allow_shared_noise,
        "max_rounds": _more(old.max_rounds, new.max_rounds),
        "hours": old.hours is not None and new.hours != old.hours,
        "max_memory_gib": _more(old.max_memory_gib, new.max_memory_gib),
    }
    return [
        f"caps.{key} {getattr(old, key)} then, {getattr(new, key)} now"
        for key, allows_more in more.items()
        if allows_more
    ]


def _more(old: float | None, new: float | None) -> bool:
    return old is not None and (new is None or new > old)


class Approval(Strict):
    """Who has to agree before anything is trained (`primia-worker plan approve`)."""

    approvers: Annotated[int, Field(ge=1, le=2)] = 1  # people, by name


class LedgerFile(Strict):
    """Where the hospital's privacy ledger lies; several workers' folders may name the same one."""

    path: Path | None = None  # relative paths are relative to the site file; None: worker's folder


class Compute(Strict):
    """Where training runs."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1  # of each process
    processes: Annotated[int, Field(ge=1, le=64)] = 1  # that share a step, one for each GPU


class SiteConfig(Strict):
    """One hospital's file."""

    data: DataSource
    caps: Caps
    approval: Approval = Approval()
    ledger: LedgerFile = LedgerFile()
    compute: Compute = Compute()


def load_site(path: Path) -> SiteConfig:
    """Read a site file from YAML. Raises ConfigError naming file, key, value and remedy."""
    site = validate(SiteConfig, parse_yaml_file(path), where=str(path))
    here = path.resolve().parent
    data = site.data.model_copy(
        update={
            "path": here / site.data.path,
            "patients": None if site.data.patients is None else here / site.data.patients,
        }
    )
    ledger = site.ledger.path and site.ledger.model_copy(update={"path": here / site.ledger.path})
    return site.model_copy(update={"data": data, "ledger": ledger or site.ledger})
