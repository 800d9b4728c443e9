"""What scripted engines have in common: they claim nothing that a machine could not do, and tell no tokens."""

from collections.abc import Mapping

from harness.backends.base import ServedWeights
from harness.backends.following import Following


class Modest:
    """A model of one byte, whose tokens nobody can follow."""

    weights = ServedWeights(1)
    vocabulary = 64

    def follow(self, prompt: tuple[int, ...], generated: tuple[int, ...]) -> Mapping[int, Following]:
        return {}
