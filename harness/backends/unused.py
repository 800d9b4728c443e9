"""What of a checkpoint's compression a library makes no use of, in the words of every result."""

from harness.contract import CheckpointDescriptor, CheckpointFormat


def served_as_dense(descriptor: CheckpointDescriptor) -> tuple[str, ...]:
    """Notes on zeros, and on values that a simulated quantization left: both are ordinary weights to a library."""
    notes = []
    if descriptor.sparsity is not None:
        notes.append(
            f"served as dense weights: {descriptor.sparsity.measured:.1%} zeros ({descriptor.sparsity.pattern})"
            " bring no speed here"
        )
    if descriptor.format is CheckpointFormat.DENSE and descriptor.quantization is not None:
        notes.append("served as dense weights: the simulated quantization brings no speed here")
    return tuple(notes)
