"""Which comparisons methods_vs_peers.py makes, and with which options on either side."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from harness.contract import Setting

GROUP_SIZES = (128, 64, 32)
Options = dict[str, bool | int | float | str]


@dataclass(frozen=True)
class Case:
    """One comparison. `peer` is the library, and the first word of its method's name.

    `floor_options`: what the side `ours, floor` changes; empty: the size of the batches.
    """

    name: str
    setting: str
    method: str
    options: Options
    peer: str
    peer_options: Options
    floor_options: Options = field(default_factory=dict)

    @property
    def prunes(self) -> bool:
        return Setting.parse(self.setting).sparsity is not None

    @property
    def sides(self) -> dict[str, tuple[str, Options]]:
        """The method and its options, of ours and of the peer's; and of each a floor: something else that is as good.

        Other batches only round otherwise; another grid has AWQ try other exponents. What that changes is what a
        difference between the two has to exceed to mean anything.
        """
        others: Options = {"batch_size": 2 if self.options["batch_size"] == 1 else 1}
        peer = f"{self.peer}-{self.method}"
        return {
            "ours": (self.method, self.options),
            "peer": (peer, self.peer_options),
            "ours, floor": (self.method, self.options | (self.floor_options or others)),
            "peer, floor": (peer, self.peer_options | others),
        }


def all_cases(group_size: int, batch_size: int) -> tuple[Case, ...]:
    """`equal`: the same algorithm on both sides, as far as options reach. `defaults`: what each side does by itself.

    AWQ's exponents are k / n_grid below 1 here, and k / (n_grid - 1) in llm-compressor, 1 included: 19 and 20 are equal
    but for the last one.
    """
    weights = f"W4A16g{group_size}"
    batch: Options = {"batch_size": batch_size}
    columns: Options = {"blocksize": 128, "percdamp": 0.01, **batch}
    peer_columns: Options = {"block_size": 128, "dampening_frac": 0.01, **batch}
    llm, gptqm = "llmcompressor", "gptqmodel"
    return (
        Case("sparsegpt 50%", "50%", "sparsegpt", columns, llm, peer_columns),
        Case("sparsegpt 2:4", "2:4", "sparsegpt", columns, llm, peer_columns),
        Case("wanda 50%", "50%", "wanda", batch, llm, batch),
        Case("wanda 2:4", "2:4", "wanda", batch, llm, batch),
        Case(
            "gptq, equal",
            weights,
            "gptq",
            columns | {"symmetric": True, "static_groups": True, "true_sequential": False},
            llm,
            peer_columns | {"symmetric": True, "actorder": "none"},
        ),
        Case("gptq, defaults", weights, "gptq", batch, llm, batch),
        Case(
            "awq, equal",
            weights,
            "awq",
            batch | {"search_clip": False, "symmetric": False, "n_grid": 19},
            llm,
            batch | {"duo_scaling": False, "symmetric": False, "n_grid": 20},
            floor_options={"n_grid": 20},
        ),
        Case("awq, defaults", weights, "awq", batch, llm, batch, floor_options={"n_grid": 19}),
        Case(
            "smoothquant W8A8", "W8A8", "smoothquant", batch | {"alpha": 0.5}, llm, batch | {"smoothing_strength": 0.5}
        ),
        Case(
            "gptq, equal",
            weights,
            "gptq",
            columns | {"symmetric": True, "percdamp": 0.05, "act_order": False, "true_sequential": True},
            gptqm,
            batch | {"symmetric": True, "damp_percent": 0.05, "order": "none"},
        ),
        Case(
            "awq, equal",
            weights,
            "awq",
            batch | {"duo_scaling": True, "symmetric": False},
            gptqm,
            batch | {"symmetric": False},
            floor_options={"n_grid": 19},
        ),
    )


def choose_group_size(checkpoint: Path) -> int:
    """The largest usual group that divides every input size of a block's linears."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    sizes = (config["hidden_size"], config.get("intermediate_size") or config["ffn_dim"], heads * head)
    for group in GROUP_SIZES:
        if all(size % group == 0 for size in sizes):
            return group
    raise SystemExit(f"no group size of {GROUP_SIZES} divides {sizes}: give --group-size")
