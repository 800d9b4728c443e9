"""Memory and speed, and what stands beside them: memory by what it holds, the GPU's state, how sure a median is."""

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from harness.contract.base import Answer


class Memory(Answer):
    """Peak memory and how it was taken: `peak-rss` (host process) or `cuda-allocator` (allocated by torch, or kept by
    CUDA graphs).

    Where several GPUs hold one model together it is the peak of their sum, and `per_device_bytes` has the peak of each,
    in the order of the request.
    """

    peak_memory_bytes: NonNegativeInt
    method: str
    per_device_bytes: tuple[NonNegativeInt, ...] = ()


class MemoryParts(Answer):
    """Memory by what it holds. A part that cannot be told is None and has its reason in `absent`.

    `weight_bytes` as they lie in memory, `kv_cache_bytes` as reserved, `activation_bytes` the rest of the peak, logits,
    workspaces and what CUDA graphs keep among it. `overhead_bytes` is there without the model: on a CPU the interpreter
    and its libraries, on a GPU what this process has in use beyond the allocator (context, code, memory of other
    libraries).
    """

    weight_bytes: NonNegativeInt | None = None
    kv_cache_bytes: NonNegativeInt | None = None
    activation_bytes: NonNegativeInt | None = None
    overhead_bytes: NonNegativeInt | None = None
    absent: dict[str, str] = {}


class MemoryPrediction(Answer):
    """What was expected before loading, and what was free then. A need beyond what is free is refused."""

    weight_bytes: NonNegativeInt
    kv_cache_bytes: NonNegativeInt
    activation_bytes: NonNegativeInt
    free_bytes: NonNegativeInt | None = None

    @property
    def needed_bytes(self) -> int:
        return self.weight_bytes + self.kv_cache_bytes + self.activation_bytes


class MedianInterval(Answer):
    """Two order statistics around a median, which hold the true one with probability `coverage`.

    `coverage` is at least 0.95, or below where so few samples cannot reach it; then these are the extremes.
    """

    low: PositiveFloat
    high: PositiveFloat
    coverage: PositiveFloat


class TokenLatency(Answer):
    """Time between one token of a sequence and its next: percentiles over all steps of all timed runs."""

    p50_seconds: PositiveFloat
    p90_seconds: PositiveFloat
    p99_seconds: PositiveFloat
    steps: PositiveInt


class StartUp(Answer):
    """What getting ready takes, which no speed and no memory of serving contains.

    `process_seconds`: from the worker's start to the beginning of loading, mostly imports. `compile_seconds`: compiling
    and capturing, None where the library does it within loading. `first_token_seconds`: the first prompt ever served.
    `peak_memory_bytes`: the peak of loading, compiling, measuring kernels and warm-up runs, taken as that of serving.
    """

    process_seconds: NonNegativeFloat
    load_seconds: NonNegativeFloat
    compile_seconds: NonNegativeFloat | None = None
    first_token_seconds: NonNegativeFloat
    peak_memory_bytes: NonNegativeInt | None = None


BOUND_GRACE = 0.05
"""By how much a figure may pass what was measured to be possible, since both are measured."""


ENERGY_COUNTER_SECONDS = 0.1
"""How often a GPU's energy counter moves on."""


class Bound(Answer):
    """What a figure is held against. `implied` is the rate or the amount that it means, `possible` what the same device
    came to in the same process, or what its limits allow; both in `unit`. `of` says in words what of."""

    of: str
    implied: NonNegativeFloat
    possible: NonNegativeFloat
    unit: str

    @property
    def kept(self) -> bool:
        return self.implied <= (1 + BOUND_GRACE) * self.possible


class TokenCheck(Answer):
    """Tokens of timed runs beside those of an untimed plain greedy loop, of the first and the last sequence.

    `differing` of the `compared` are others, all of them near ties: `largest_gap_nats` is the most by which the loop's
    token stands above one that was generated, None where none differ or the library does not tell.
    """

    compared: PositiveInt
    differing: NonNegativeInt = 0
    largest_gap_nats: NonNegativeFloat | None = None


class Extent(Answer):
    """The smallest, the median and the largest of some readings."""

    minimum: NonNegativeFloat
    median: NonNegativeFloat
    maximum: NonNegativeFloat


class DeviceTelemetry(Answer):
    """What the driver said of the GPU while the timed work was repeated, untimed. Its name has each figure's unit.

    What cannot be read is None or empty, with the reason in `absent`. `throttle_reasons` counts the samples in which
    each was set. `energy_joules_per_token` is all that the card took (`energy_joules`), over all tokens generated
    meanwhile; `bounds` hold it against the power limit and against the card's own lowest reading.
    """

    driver: str
    device_uuid: str
    samples: PositiveInt
    seconds: PositiveFloat
    sm_clock_mhz: Extent | None = None
    memory_clock_mhz: Extent | None = None
    power_watts: Extent | None = None
    temperature_celsius: Extent | None = None
    memory_used_bytes: NonNegativeInt | None = None
    throttle_reasons: dict[str, PositiveInt] = {}
    other_processes: NonNegativeInt | None = None
    ecc_enabled: bool | None = None
    energy_joules_per_token: NonNegativeFloat | None = None
    energy_joules: NonNegativeFloat | None = None
    power_limit_watts: PositiveFloat | None = None
    bounds: tuple[Bound, ...] = ()
    absent: dict[str, str] = {}


class Speed(Answer):
    """One batch size. The figure is the median of `samples`, each the whole batch's decode tokens/s in a timed run.

    `protocol` names the lengths and this batch size. `noise_floor` is the relative difference that two halves of these
    same runs show by chance: a speed-up within it is none. `token_latency` is None where the library does not tell when
    each token came; `token_latency_absent` is then the reason. `greedy_tokens` begins what followed the first prompt,
    empty where the library gives no token numbers; `repeatable` is whether every timed run generated the same, None
    where the library does not say what it generated. `bounds` are what the speeds are possible by, measured in the same
    process; `token_check` is None where no tokens can be compared, for the reason `token_check_absent`, and
    `noise_floor` where there are too few runs to show it, for `noise_floor_absent`.
    """

    batch_size: PositiveInt
    decode_tokens_per_second: PositiveFloat
    samples: tuple[PositiveFloat, ...]
    prefill_tokens_per_second: PositiveFloat
    protocol: str = ""
    interval: MedianInterval | None = None
    noise_floor: NonNegativeFloat | None = None
    noise_floor_absent: str | None = None
    time_to_first_token_seconds: PositiveFloat | None = None
    token_latency: TokenLatency | None = None
    token_latency_absent: str | None = None
    warmup_runs: NonNegativeInt | None = None
    greedy_tokens: tuple[NonNegativeInt, ...] = ()
    repeatable: bool | None = None
    bounds: tuple[Bound, ...] = ()
    token_check: TokenCheck | None = None
    token_check_absent: str | None = None
    telemetry: DeviceTelemetry | None = None
    telemetry_absent: str | None = None
