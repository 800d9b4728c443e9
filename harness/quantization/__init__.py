"""Quantized weights: their codes and scales, the layouts they are stored in, and quantized activations."""
