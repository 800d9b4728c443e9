"""To AWQ's `gemm` layout, exactly: 4 bits only. With groups of 128 it is what MLC-LLM takes as `q4f16_autoawq`."""

from harness.contract import CheckpointFormat, ExportParameters
from harness.exporting.conversion import Conversion
from harness.exporting.repacking import repack
from harness.exporting.source import Source


def convert(source: Source, _: ExportParameters) -> Conversion:
    """Raises Unsupported for other bits, groups in the order of activations, and outputs not in multiples of 8."""
    return repack(source, CheckpointFormat.AWQ)
