"""To compressed-tensors `pack-quantized`: from GPTQ (unless in the order of activations), AWQ and ModelOpt, exactly."""

from harness.contract import CheckpointFormat, ExportParameters
from harness.exporting.conversion import Conversion
from harness.exporting.repacking import repack
from harness.exporting.source import Source


def convert(source: Source, _: ExportParameters) -> Conversion:
    """Raises Unsupported for groups in the order of activations, and what is not quantized weights alone."""
    return repack(source, CheckpointFormat.PACK_QUANTIZED)
