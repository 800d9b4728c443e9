"""What of the matrix of models, methods, tasks and libraries a manifest leaves out."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from harness.contract import REFERENCE_ENGINE, Frozen
from orchestrator.manifest.fields import Different, Word, one_or_more

DENSE = "dense"
"""The name of the model as it is, in the place of a method's."""

_SHOWN = 4
"""Models that a line about an exclusion names."""
_Names = Annotated[tuple[Word, ...], Different, one_or_more(str)]
_Tracks = Annotated[tuple[Annotated[int, Field(ge=1, le=6)], ...], Different, one_or_more(int)]


class ExclusionEntry(Frozen):
    """One corner of the matrix: all that every given name holds for. What is left open holds for anything.

    `model`, `method` (`dense` is the model as it is) and `setting` say whose; alone they leave out the model or the
    compression itself. `task` leaves out its evaluation, `backend` the timing on it, both together that task by that
    engine, `track` what counts in that track and in no other one.
    """

    model: _Names = ()
    method: _Names = ()
    setting: _Names = ()
    task: _Names = ()
    backend: _Names = ()
    track: _Tracks = ()

    @model_validator(mode="after")
    def _is_a_corner(self) -> Self:
        if not any(self.given.values()):
            raise ValueError(f"it names nothing to leave out; give one of {', '.join(type(self).model_fields)}")
        if self.track and (self.task or self.backend):
            raise ValueError("a track stands with model, method and setting alone; give task or backend by themselves")
        if DENSE in self.method and self.is_whole:
            raise ValueError("all else is held against the dense model; give the task, backend or track to leave out")
        return self

    @property
    def given(self) -> dict[str, tuple[str | int, ...]]:
        return {name: values for name in type(self).model_fields if (values := getattr(self, name))}

    @property
    def is_whole(self) -> bool:
        """Whether it leaves out models or compressions, and not what is measured of them."""
        return not (self.task or self.backend or self.track)

    @property
    def words(self) -> str:
        """In a line: `excluded: opt-1.3b, opt-2.7b and 3 more: track 1, 4, 5`."""
        given = self.given
        models = given.pop("model", ())
        more = f" and {len(models) - _SHOWN} more" if models[_SHOWN:] else ""
        rest = ", ".join(f"{name} {', '.join(map(str, values))}" for name, values in given.items())
        whose = ", ".join(map(str, models[:_SHOWN])) + more
        return f"excluded: {': '.join(filter(None, (whose, rest)))}"

    def is_about(self, model: str, method: str | None, setting: str | None) -> bool:
        return (
            (not self.model or model in self.model)
            and (not self.method or (method or DENSE) in self.method)
            and (not self.setting or setting in self.setting)
        )


class Exclusions(Frozen):
    """A manifest's exclusions, by the names that methods and backends have in stages. `engine`: whose figures count.

    Where a `method` is asked for, it is that of a subject: None for the dense model.
    """

    entries: tuple[ExclusionEntry, ...] = ()
    engine: str = REFERENCE_ENGINE

    def leave_out(self, model: str, method: str | None, setting: str | None) -> bool:
        """Whether there is no such checkpoint."""
        return any(entry.is_whole for entry in self._about(model, method, setting))

    def leave_out_profile(self, model: str, method: str | None, setting: str | None) -> bool:
        return any(4 in entry.track for entry in self._about(model, method, setting))

    def leave_out_benchmark(self, model: str, method: str | None, setting: str | None, backend: str) -> bool:
        return any(
            5 in entry.track or (backend in entry.backend and not entry.task)
            for entry in self._about(model, method, setting)
        )

    def leave_out_task(
        self, model: str, method: str | None, setting: str | None, task: str, engine: str, tracks: Iterable[int]
    ) -> bool:
        """`tracks` are those that the task counts in: where it counts in one that is not left out, it is evaluated."""
        about = tuple(self._about(model, method, setting))
        by_name = (task in entry.task and (not entry.backend or engine in entry.backend) for entry in about)
        left_out = {track for entry in about for track in entry.track}
        counts = set(tracks)
        return any(by_name) or (bool(counts) and counts <= left_out)

    def leave_out_value(
        self, model: str, method: str | None, setting: str | None, track: int, part: str, name: str
    ) -> bool:
        """Whether a complete score has no value there: `name` is a task or measure, `part` in track 5 a backend."""
        if self.leave_out(model, method, setting) or any(
            track in entry.track for entry in self._about(model, method, setting)
        ):
            return True
        if track == 5:
            return self.leave_out_benchmark(model, method, setting, part)
        return self.leave_out_task(model, method, setting, name, self.engine, ())

    def _about(self, model: str, method: str | None, setting: str | None) -> Iterable[ExclusionEntry]:
        return (entry for entry in self.entries if entry.is_about(model, method, setting))


def resolve_exclusions(
    entries: Iterable[ExclusionEntry],
    labels: Mapping[str, Iterable[str]],
    full_name: Callable[[str], str],
    engine: str = REFERENCE_ENGINE,
) -> Exclusions:
    """`labels` has, for each method of the manifest, the names that its entries have; `full_name` that of a backend."""
    return Exclusions(
        entries=tuple(
            entry.model_copy(
                update={
                    "method": tuple(
                        dict.fromkeys(one for name in entry.method for one in (name, *labels.get(name, ())))
                    ),
                    "backend": tuple(map(full_name, entry.backend)),
                }
            )
            for entry in entries
        ),
        engine=full_name(engine),
    )
