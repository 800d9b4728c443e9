"""To GPTQ's layout, exactly: 2, 3, 4 or 8 bits, sizes that fill whole words.

Symmetric weights are written in the form that every reader knows (`checkpoint_format: gptq`), others as `gptq_v2`.
"""

from dataclasses import replace

from harness.contract import CheckpointFormat, ExportParameters
from harness.exporting.conversion import Conversion
from harness.exporting.repacking import repack
from harness.exporting.source import Source


def convert(source: Source, _: ExportParameters) -> Conversion:
    """Raises Unsupported for other bits, sizes that leave words unfilled, and what is not quantized weights alone."""
    conversion = repack(source, CheckpointFormat.GPTQ)
    quantization = source.descriptor.quantization
    if quantization is None or quantization.symmetric:
        return conversion
    return replace(conversion, notes=("zero points stored as they are (gptq_v2), which not every engine reads",))
