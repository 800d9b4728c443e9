"""Which backend serves which checkpoint where: one table a backend, beside its image, each answer with its source."""

from orchestrator.plan.support.reading import TABLE_NAME, derived_table, read_table, support_of
from orchestrator.plan.support.table import Answer, Checkpoint, SupportRow, SupportTable
from orchestrator.plan.support.verdict import Refused, Served, judge

__all__ = [
    "TABLE_NAME",
    "Answer",
    "Checkpoint",
    "Refused",
    "Served",
    "SupportRow",
    "SupportTable",
    "derived_table",
    "judge",
    "read_table",
    "support_of",
]
