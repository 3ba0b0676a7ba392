"""Study plan and site file: YAML to frozen, validated models."""

from primia.config.plan import (
    NOISE_FLOOR,
    PrivacyTerms,
    StudyPlan,
    canonical_bytes,
    load_plan,
    plan_digest,
    plan_from_canonical,
)
from primia.config.site import SiteConfig, load_site

__all__ = [
    "NOISE_FLOOR",
    "PrivacyTerms",
    "SiteConfig",
    "StudyPlan",
    "canonical_bytes",
    "load_plan",
    "load_site",
    "plan_digest",
    "plan_from_canonical",
]
