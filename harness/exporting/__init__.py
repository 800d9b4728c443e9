"""Operation `export`: the same checkpoint in another layout, for an engine that does not read the one it is in.

One conversion a module, named after its target; `job` chooses it and publishes. docs/exporting.md has the table.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.contract import ExportRequest, ExportResult
    from harness.reporter import Reporter


def run(request: "ExportRequest", reporter: "Reporter") -> "ExportResult":
    """Perform an export request; see `harness.exporting.job.export`."""
    from harness.exporting.job import export

    return export(request, reporter)
