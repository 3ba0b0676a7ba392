"""Labels of the statements that identities sign; one for each kind, never reused."""

PLAN_LABEL = b"study plan v1"
ROUND_LABEL = b"aggregation round v1"
