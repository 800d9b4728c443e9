"""Multiply-accumulates of one forward pass (batch 1, no cache), from the shape alone, under three named conventions.

Covered: matrix products. Not covered, and counted as nothing: embedding look-ups, norms, biases, activations, softmax,
residual sums and the rotary embedding.
"""

from harness.architectures.shape import Shape

SHAPE = "macs/shape"
DENSITY = "macs/density"
PAPER = "macs/paper-bitops"

_REFERENCE_BITS = 16


def count_macs(shape: Shape, tokens: int, *, density: float = 1.0, weight_bits: float = 16) -> dict[str, int]:
    """MACs of `tokens` positions by convention, rounded to whole numbers.

    `macs/shape`: every decoder linear, both attention products over all pairs of positions (a causal mask saves
    nothing), the embedding projections where there are any, and the output embedding at every position.
    `macs/density`: the same, with the decoder linears times `density`, the measured fraction of weights not zero.
    `macs/paper-bitops`: what LLMCBench's Table 3 prints: decoder linears and attention products times `density` and
    times (weight bits / 16) squared, whatever the activations' bits; the rest as it is.
    """
    linears = tokens * shape.decoder_weights
    attention = 2 * shape.all_heads * shape.head_size * tokens**2
    rest = tokens * (shape.head_weights + shape.projection_weights)
    scale = density * (weight_bits / _REFERENCE_BITS) ** 2
    return {
        SHAPE: linears + attention + rest,
        DENSITY: round(linears * density) + attention + rest,
        PAPER: round((linears + attention) * scale) + rest,
    }
