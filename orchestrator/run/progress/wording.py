"""The one sentence for a finished stage, shared by the displays."""

from orchestrator.store import StageState, StageStatus

SYMBOLS = {
    StageStatus.DONE: ("✓", "green"),
    StageStatus.CACHED: ("=", "cyan"),
    StageStatus.UNSUPPORTED: ("-", "yellow"),
    StageStatus.BLOCKED: ("·", "yellow"),
    StageStatus.FAILED: ("✗", "red"),
    StageStatus.INTERRUPTED: ("!", "red"),
}


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def units(name: str) -> str:
    """The plural of what progress is counted in, however the worker named it."""
    return name if name.endswith("s") else f"{name}s"


def outcome(state: StageState) -> str:
    """What became of a stage, in words."""
    if state.status is StageStatus.DONE:
        return duration(state.wall_seconds or 0.0)
    if state.failure is not None:
        return f"{state.status.value}: {state.failure.message}"
    return state.status.value
