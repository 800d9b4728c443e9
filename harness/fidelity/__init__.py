"""Fidelity to the dense model: how far a checkpoint's next-token distributions are from the dense one's, by tokens.

`keeping` keeps the dense model's last hidden states over a text, once; `comparing` holds a checkpoint against them. The
definitions are in `docs/protocols.md`.
"""
