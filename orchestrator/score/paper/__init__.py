"""The paper's tables as data, and which of its printed overall metrics come out of them.

The numbers are transcribed from the LLMCBench paper (NeurIPS 2024, Datasets and Benchmarks), its appendix and slides;
each file names its table. They are checked with the functions that score a run: `orchestrator.score`.
"""

from orchestrator.score.paper.tables import (
    ColumnProtocol,
    PaperTable,
    SuspiciousCell,
    SuspiciousColumn,
    column_protocols,
    load_table,
    load_tables,
    suspicious_cells,
    suspicious_columns,
)
from orchestrator.score.paper.verify import PaperRow, Verdict, verify, verify_table

__all__ = [
    "ColumnProtocol",
    "PaperRow",
    "PaperTable",
    "SuspiciousCell",
    "SuspiciousColumn",
    "Verdict",
    "column_protocols",
    "load_table",
    "load_tables",
    "suspicious_cells",
    "suspicious_columns",
    "verify",
    "verify_table",
]
