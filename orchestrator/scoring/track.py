"""The six tracks and the two ways to average over models."""

from enum import IntEnum, StrEnum


class Track(IntEnum):
    """Numbered as in the paper's section 3; each has one overall metric."""

    PERFORMANCE = 1
    GENERALIZATION = 2
    TRAINING_CONSUMPTION = 3
    INFERENCE_CONSUMPTION = 4
    HARDWARE_ACCELERATION = 5
    TRUSTWORTHINESS = 6

    @property
    def title(self) -> str:
        return _TITLES[self][0]

    @property
    def metric(self) -> str:
        """The name of the track's overall metric, as the paper writes it."""
        return _TITLES[self][1]

    @property
    def noun(self) -> str:
        """What one expected name of the track is, in the plural."""
        return _TITLES[self][2]

    @property
    def is_relative(self) -> bool:
        """True where there is no dense value, so that the greatest value among the methods takes its place."""
        return self is Track.TRAINING_CONSUMPTION


_TITLES = {
    Track.PERFORMANCE: ("Compression performance", "OM_perf", "data sets"),
    Track.GENERALIZATION: ("Generalization ability", "OM_gen", "data sets"),
    Track.TRAINING_CONSUMPTION: ("Training consumption", "OM_train", "measures"),
    Track.INFERENCE_CONSUMPTION: ("Inference consumption", "OM_inf", "measures"),
    Track.HARDWARE_ACCELERATION: ("Hardware acceleration", "OM_hard", "speeds"),
    Track.TRUSTWORTHINESS: ("Trustworthiness", "OM_trust", "data sets"),
}


class Mode(StrEnum):
    """How OM_gen averages: `paper` counts every model once, as the printed tables do; `strict` first averages within
    each model family, as the text of Eq. 2 says. The other five metrics are the same in both."""

    PAPER = "paper"
    STRICT = "strict"
