"""Where every number of a stored result stands in a report.

`PLACES` is the one list. A field of a result that it lacks would be measured and not shown: no test lets that pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from harness.contract import Operation
from orchestrator.report.formats import bytes_text, count_text, seconds_text, value_text


class Part(StrEnum):
    """A table of the report, by its title."""

    SPEED = "Speed"
    LATENCY = "Latency"
    START_UP = "Start-up"
    MEMORY = "Memory"
    DEVICE = "Energy and state of the device"
    POSSIBLE = "What is possible on the device"
    SIZE = "Sizes and operations"
    COMPRESSING = "Cost of compressing"
    EVALUATION = "Evaluations"
    DIVERGENCE = "Distance from dense"
    EVALUATING = "Cost of evaluating"
    CHECKPOINT = "Checkpoints and data"


class Several(Enum):
    """What becomes of a field that holds several numbers, one for each of what they are of."""

    ROWS = auto()
    """Each has a row."""
    LISTED = auto()
    """They stand in one cell, with their names."""
    TOTAL = auto()
    """Their sum, and how many there are."""
    SPREAD = auto()
    """The least, the median, the most, and which that is."""


Text = Callable[[float], str]


@dataclass(frozen=True)
class Shown:
    """The column of a table. Fields of one part and title share the column, in the order in which they are declared."""

    part: Part
    title: str
    text: Text
    several: Several = Several.ROWS


@dataclass(frozen=True)
class Named:
    """No figure of its own: it names the row in which others stand, or what was asked for. `where` says which."""

    where: str


Places = Mapping[str, Shown | Named]


def _plain(value: float) -> str:
    return value_text(value, "")


def _share(value: float) -> str:
    return f"{value:.1%}"


def _count(value: float) -> str:
    return count_text(int(value))


def _macs(value: float) -> str:
    return value_text(value, "macs")


def _operations(value: float) -> str:
    return f"{value:.3g}"


def _below(path: str, places: Places) -> Places:
    return {f"{path}.{name}": place for name, place in places.items()}


def _extent(title: str) -> Places:
    return dict.fromkeys(
        ("minimum", "median", "maximum"), Shown(Part.DEVICE, f"{title}, least / median / most", _plain)
    )


_BOUNDS: Places = {
    "bounds.implied": Shown(Part.POSSIBLE, "Implied by the figure", _plain),
    "bounds.possible": Shown(Part.POSSIBLE, "Possible", _plain),
}
_HELD = "measured / predicted"
_MEMORY: Places = {
    "dequantized": Shown(Part.MEMORY, "Dequantized", _count),
    "memory.peak_memory_bytes": Shown(Part.MEMORY, "Peak", bytes_text),
    "memory.per_device_bytes": Shown(Part.MEMORY, "Peak of each GPU", bytes_text, Several.LISTED),
    "memory_parts.weight_bytes": Shown(Part.MEMORY, f"Weights, {_HELD}", bytes_text),
    "memory_prediction.weight_bytes": Shown(Part.MEMORY, f"Weights, {_HELD}", bytes_text),
    "memory_parts.kv_cache_bytes": Shown(Part.MEMORY, f"Keys and values, {_HELD}", bytes_text),
    "memory_prediction.kv_cache_bytes": Shown(Part.MEMORY, f"Keys and values, {_HELD}", bytes_text),
    "memory_parts.activation_bytes": Shown(Part.MEMORY, f"Activations, {_HELD}", bytes_text),
    "memory_prediction.activation_bytes": Shown(Part.MEMORY, f"Activations, {_HELD}", bytes_text),
    "memory_parts.overhead_bytes": Shown(Part.MEMORY, "Without the model", bytes_text),
    "memory_prediction.free_bytes": Shown(Part.MEMORY, "Free before", bytes_text),
}
_BITS = Shown(Part.CHECKPOINT, "Bits of weights / activations / queries, keys, values", _count)
_FILES: Places = {"artifact.files.size_bytes": Shown(Part.CHECKPOINT, "Files", bytes_text, Several.TOTAL)}
_CHECKPOINT: Places = {
    "artifact.parameter_count": Shown(Part.CHECKPOINT, "Parameters", _count),
    **_FILES,
    "artifact.sparsity.measured": Shown(Part.CHECKPOINT, "Zeros, measured / asked for", _share),
    "artifact.sparsity.target": Shown(Part.CHECKPOINT, "Zeros, measured / asked for", _share),
    "artifact.quantization.weight_bits": _BITS,
    "artifact.quantization.activation_bits": _BITS,
    "artifact.quantization.attention_bits": _BITS,
    "artifact.quantization.group_size": Shown(Part.CHECKPOINT, "Group", _count),
    "artifact.quantization.symmetric": Shown(Part.CHECKPOINT, "Symmetric weights / activations", _count),
    "artifact.quantization.activations_symmetric": Shown(Part.CHECKPOINT, "Symmetric weights / activations", _count),
    "artifact.quantization.simulated": Shown(Part.CHECKPOINT, "Simulated", _count),
    "artifact.quantization.float8": Shown(Part.CHECKPOINT, "Float8", _count),
    "artifact.exported.exact": Shown(Part.CHECKPOINT, "Export exact / dequantized / padded", _count),
    "artifact.exported.dequantized": Shown(Part.CHECKPOINT, "Export exact / dequantized / padded", _count),
    "artifact.exported.padded": Shown(Part.CHECKPOINT, "Export exact / dequantized / padded", _count),
    "artifact.exported.unpadded_parameter_count": Shown(Part.CHECKPOINT, "Parameters without padding", _count),
    "artifact.options": Named("an option of the method, as the manifest has it"),
}
_TELEMETRY: Places = {
    "samples": Shown(Part.DEVICE, "Readings", _count),
    "seconds": Shown(Part.DEVICE, "Watched for", seconds_text),
    **_below("sm_clock_mhz", _extent("Clock (MHz)")),
    **_below("memory_clock_mhz", _extent("Memory's clock (MHz)")),
    **_below("power_watts", _extent("Power (W)")),
    **_below("temperature_celsius", _extent("Temperature (°C)")),
    "power_limit_watts": Shown(Part.DEVICE, "Power limit (W)", _plain),
    "energy_joules": Shown(Part.DEVICE, "Energy (J), all / a token", _plain),
    "energy_joules_per_token": Shown(Part.DEVICE, "Energy (J), all / a token", _plain),
    "memory_used_bytes": Shown(Part.DEVICE, "Memory in use", bytes_text),
    "throttle_reasons": Shown(Part.DEVICE, "Readings with throttling", _count, Several.LISTED),
    "other_processes": Shown(Part.DEVICE, "Other processes", _count),
    "ecc_enabled": Shown(Part.DEVICE, "ECC", _count),
    **_BOUNDS,
}
_SPEED: Places = {
    "batch_size": Named("the row"),
    "decode_tokens_per_second": Shown(Part.SPEED, "Decode (tokens/s)", _plain),
    "interval.low": Shown(Part.SPEED, "Median within: low / high / confidence", _plain),
    "interval.high": Shown(Part.SPEED, "Median within: low / high / confidence", _plain),
    "interval.coverage": Shown(Part.SPEED, "Median within: low / high / confidence", _share),
    "samples": Shown(Part.SPEED, "Timed runs (tokens/s)", _plain),
    "noise_floor": Shown(Part.SPEED, "Noise within", _share),
    "prefill_tokens_per_second": Shown(Part.SPEED, "Prefill (tokens/s)", _plain),
    "warmup_runs": Shown(Part.SPEED, "Warm-up runs", _count),
    "repeatable": Shown(Part.SPEED, "Same tokens each run", _count),
    "token_check.compared": Shown(Part.SPEED, "Tokens held against a plain loop / differing", _count),
    "token_check.differing": Shown(Part.SPEED, "Tokens held against a plain loop / differing", _count),
    "token_check.largest_gap_nats": Shown(Part.SPEED, "Largest gap (nats)", _plain),
    "greedy_tokens": Named("the numbers of generated tokens, which `backends verify` compares"),
    "time_to_first_token_seconds": Shown(Part.LATENCY, "First token", seconds_text),
    "token_latency.p50_seconds": Shown(Part.LATENCY, "Between tokens, p50", seconds_text),
    "token_latency.p90_seconds": Shown(Part.LATENCY, "p90", seconds_text),
    "token_latency.p99_seconds": Shown(Part.LATENCY, "p99", seconds_text),
    "token_latency.steps": Shown(Part.LATENCY, "Steps", _count),
    **_BOUNDS,
    **_below("telemetry", _TELEMETRY),
}
_COST: Places = {
    "load_seconds": Shown(Part.COMPRESSING, "Load", seconds_text),
    "compress_seconds": Shown(Part.COMPRESSING, "Compress", seconds_text),
    "recovery_seconds": Shown(Part.COMPRESSING, "Recover", seconds_text),
    "save_seconds": Shown(Part.COMPRESSING, "Save", seconds_text),
    "memory.peak_memory_bytes": Shown(Part.COMPRESSING, "Peak memory", bytes_text),
    "memory.per_device_bytes": Shown(Part.COMPRESSING, "Peak memory of each GPU", bytes_text, Several.LISTED),
    "resumed_blocks": Shown(Part.COMPRESSING, "Blocks resumed", _count),
    **_BOUNDS,
}
_EVALUATION_COST: Places = {
    "prepare_seconds": Shown(Part.EVALUATING, "Prepare", seconds_text),
    "load_seconds": Shown(Part.EVALUATING, "Load", seconds_text),
    "score_seconds": Shown(Part.EVALUATING, "Score", seconds_text),
    "scored_items": Shown(Part.EVALUATING, "Items, scored / resumed", _count),
    "resumed_items": Shown(Part.EVALUATING, "Items, scored / resumed", _count),
    "items_per_second": Shown(Part.EVALUATING, "Items/s", _plain),
    "tokens_per_second": Shown(Part.EVALUATING, "Tokens/s", _plain),
    "asked_tokens": Shown(Part.EVALUATING, "Tokens, asked / computed / padding", _count),
    "computed_tokens": Shown(Part.EVALUATING, "Tokens, asked / computed / padding", _count),
    "padding_tokens": Shown(Part.EVALUATING, "Tokens, asked / computed / padding", _count),
    "model_operations": Shown(Part.EVALUATING, "Operations, all / per second", _operations),
    "model_operations_per_second": Shown(Part.EVALUATING, "Operations, all / per second", _operations),
    "parameter_count": Shown(Part.EVALUATING, "Parameters", _count),
    "processes": Shown(Part.EVALUATING, "Processes", _count),
    **_BOUNDS,
}

PLACES: Mapping[Operation, Places] = {
    Operation.FETCH: {**_CHECKPOINT, "artifact.rows": Shown(Part.CHECKPOINT, "Rows", _count, Several.LISTED)},
    Operation.COMPRESS: {
        **_CHECKPOINT,
        **_below("cost", _COST),
        "layers.seconds": Shown(Part.COMPRESSING, "Seconds of a layer", seconds_text, Several.SPREAD),
        "layers.error": Shown(Part.COMPRESSING, "Error of a layer", _plain, Several.SPREAD),
        "layers.sparsity": Shown(Part.COMPRESSING, "Zeros of a layer", _share, Several.SPREAD),
    },
    Operation.EXPORT: {**_CHECKPOINT, "linears": Shown(Part.CHECKPOINT, "Linears written anew", _count)},
    Operation.EVALUATE: {
        "metrics": Shown(Part.EVALUATION, "Metrics", _plain, Several.LISTED),
        "items": Shown(Part.EVALUATION, "Items, scored / there are", _count),
        "items_available": Shown(Part.EVALUATION, "Items, scored / there are", _count),
        "drawn_from": Shown(Part.EVALUATION, "Drawn from", _count),
        "excluded": Shown(Part.EVALUATION, "Excluded", _count, Several.LISTED),
        "truncated_items": Shown(Part.EVALUATION, "Truncated", _count),
        "details.shots": Shown(Part.EVALUATION, "Shots", _count),
        "details.sequence_length": Shown(Part.EVALUATION, "Segment (tokens)", _count),
        "wall_seconds": Shown(Part.EVALUATING, "All", seconds_text),
        **_below("cost", _EVALUATION_COST),
    },
    Operation.STATES: {
        **_FILES,
        "artifact.items": Shown(Part.DIVERGENCE, "Items, compared / there are", _count),
        "artifact.items_available": Shown(Part.DIVERGENCE, "Items, compared / there are", _count),
        "artifact.tokens": Shown(Part.DIVERGENCE, "Tokens", _count),
        "artifact.requests": Shown(Part.DIVERGENCE, "Sequences", _count),
        "artifact.hidden_size": Shown(Part.DIVERGENCE, "Hidden size / vocabulary", _count),
        "artifact.vocabulary_size": Shown(Part.DIVERGENCE, "Hidden size / vocabulary", _count),
        "artifact.batch_tokens": Shown(Part.DIVERGENCE, "Tokens of a pass, at most", _count),
        "load_seconds": Shown(Part.EVALUATING, "Load", seconds_text),
        "score_seconds": Shown(Part.EVALUATING, "Score", seconds_text),
    },
    Operation.FIDELITY: {
        "metrics": Shown(Part.DIVERGENCE, "Metrics", _plain, Several.LISTED),
        "items": Shown(Part.DIVERGENCE, "Items, compared / there are", _count),
        "items_available": Shown(Part.DIVERGENCE, "Items, compared / there are", _count),
        "tokens": Shown(Part.DIVERGENCE, "Tokens", _count),
        "excluded": Shown(Part.DIVERGENCE, "Excluded", _count, Several.LISTED),
        "wall_seconds": Shown(Part.EVALUATING, "All", seconds_text),
        "load_seconds": Shown(Part.EVALUATING, "Load", seconds_text),
        "score_seconds": Shown(Part.EVALUATING, "Score", seconds_text),
    },
    Operation.PROFILE: {
        "disk_bytes": Shown(Part.SIZE, "On disk", bytes_text),
        "weight_bytes": Shown(Part.SIZE, "Weights", bytes_text),
        "kv_cache_bytes": Shown(Part.SIZE, "Keys and values", bytes_text),
        "parameter_count": Shown(Part.SIZE, "Parameters", _count),
        "bits_per_weight": Shown(Part.SIZE, "Bits a weight, with scales", _plain),
        "macs": Shown(Part.SIZE, "Multiply-accumulates", _macs, Several.LISTED),
        "macs_tokens": Shown(Part.SIZE, "of so many tokens", _count),
        **_MEMORY,
    },
    Operation.BENCHMARK: {
        **_below("speeds", _SPEED),
        "load_seconds": Shown(Part.START_UP, "Load", seconds_text),
        "start_up.process_seconds": Shown(Part.START_UP, "Process", seconds_text),
        "start_up.load_seconds": Shown(Part.START_UP, "Load when started", seconds_text),
        "start_up.compile_seconds": Shown(Part.START_UP, "Compile", seconds_text),
        "start_up.first_token_seconds": Shown(Part.START_UP, "First token ever", seconds_text),
        "start_up.peak_memory_bytes": Shown(Part.START_UP, "Peak memory", bytes_text),
        **_MEMORY,
        "kv_cache_tokens": Shown(Part.MEMORY, "Room (tokens)", _count),
    },
}
"""By operation, and by the path of the field in the result: lists and mappings on the way do not show in it."""
