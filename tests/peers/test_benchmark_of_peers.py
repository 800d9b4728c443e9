"""The comparison with the peers: its options are real ones on both sides, and its table says what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from methods_vs_peers import find_artifact, interpreter, table
from peer_cases import all_cases, choose_group_size
from peer_measuring import FLOORS, Measured
from safetensors.torch import save_file

from harness.methods import job
from harness.methods.peers import gptqmodel, llmcompressor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CASES = all_cases(64, 4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.peer} {case.name}")
def test_both_sides_of_a_case_accept_its_setting_and_options(case, parameters):
    peer = {"llmcompressor": llmcompressor, "gptqmodel": gptqmodel}[case.peer]
    for side, (method, options) in case.sides.items():
        parse = peer.parse if side.startswith("peer") else job.parse_request
        parse(parameters(method, case.setting, **options))


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_differs_from_its_side_in_one_option_that_is_no_part_of_the_algorithm(floor):
    for case in CASES:
        side, other = case.sides[FLOORS[floor]][1], case.sides[floor][1]
        changed = {name for name in side | other if side.get(name) != other.get(name)}
        grid = case.method == "awq" and floor == "ours, floor"
        assert changed == ({"n_grid"} if grid else {"batch_size"}), case.name


def measured(method, seconds, peak, perplexity):
    runs = [
        {"method_seconds": one, "cost": {"memory": {"peak_memory_bytes": two * 2**20}}}
        for one, two in zip(seconds, peak, strict=True)
    ]
    return Measured(method, {}, runs, perplexity)


def test_the_table_shows_medians_and_the_peers_share_of_ours():
    case = CASES[0]
    sides = {
        "ours": measured("sparsegpt", [9.0, 2.0, 1.0], [100, 100, 300], 20.0),
        "peer": measured("llmcompressor-sparsegpt", [4.0, 5.0, 90.0], [400, 50, 60], 21.5),
    }
    overlaps = {"peer": {"overlap": 0.98765, "first_block": 0.99995}}
    text = table([(case, sides, overlaps)], Measured("dense", {}, [], 15.25))
    assert "dense checkpoint: 15.250" in text
    cells = "2.00 | 5.00 | 2.50 | 100 | 60 | 0.60 | 20.000 | - | 21.500 | - | 0.9877 | 1.0000 | - | -"
    assert f"| sparsegpt 50% | llmcompressor | {cells} |" in text


def test_the_table_shows_what_other_batches_change_beside_what_the_peer_does():
    sides = {
        "ours": measured("sparsegpt", [2.0], [100], 20.0),
        "peer": measured("llmcompressor-sparsegpt", [4.0], [200], 21.5),
        "ours, floor": measured("sparsegpt", [3.0], [100], 19.0),
        "peer, floor": measured("llmcompressor-sparsegpt", [3.0], [100], 22.0),
    }
    overlaps = {
        "peer": {"overlap": 0.94, "first_block": 1.0},
        "ours, floor": {"overlap": 0.95, "first_block": 1.0},
        "peer, floor": {"overlap": 0.96, "first_block": 1.0},
    }
    assert "| 20.000 | 19.000 | 21.500 | 22.000 | 0.9400 | 1.0000 | 0.9500 | 0.9600 |" in table(
        [(CASES[0], sides, overlaps)], Measured("dense", {})
    )


def test_a_side_that_failed_is_told_and_leaves_its_cells_empty():
    sides = {
        "ours": measured("wanda", [1.0], [100], 20.0),
        "peer": Measured("llmcompressor-wanda", {}, failed="it broke"),
    }
    text = table([(CASES[2], sides, {})], Measured("dense", {}))
    assert "| wanda 50% | llmcompressor | 1.00 | - | - | 100 | - | - | 20.000 | - | - | - | - | - | - | - |" in text
    assert text.endswith("wanda 50%, llmcompressor-wanda: it broke")


@pytest.mark.parametrize(("hidden", "group"), [(4096, 128), (576, 64), (96, 32)])
def test_the_group_is_the_largest_that_fits_every_input(tmp_path, hidden, group):
    config = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert choose_group_size(tmp_path) == group


def test_a_model_that_no_group_fits_is_refused(tmp_path):
    config = {"hidden_size": 40, "intermediate_size": 128, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit, match="no group size"):
        choose_group_size(tmp_path)


def test_the_first_wish_that_the_store_can_meet_is_taken(tmp_path):
    for digest, name in (("aa", "boolq"), ("bb", "c4")):
        (tmp_path / "artifacts" / digest).mkdir(parents=True)
        (tmp_path / "artifacts" / digest / "llmcbench.json").write_text(json.dumps({"name": name}))
    assert find_artifact(tmp_path, {"name": "c4"}, {"name": "boolq"}).name == "bb"
    assert find_artifact(tmp_path, {"name": "pile"}, {"name": "boolq"}).name == "aa"
    with pytest.raises(SystemExit, match="make bench"):
        find_artifact(tmp_path, {"name": "pile"})


def test_an_interpreter_is_found_from_any_folder_and_by_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    assert interpreter("./python") == str(tmp_path / "python")
    with pytest.raises(SystemExit, match="no program nothing"):
        interpreter("nothing")


def test_masks_are_compared_over_the_pruned_matrices_only_and_in_the_first_block_apart(tmp_path):
    here = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    there = torch.tensor([[0.0, 2.0, 0.0, 2.0]])
    for name, weight in (("first", here), ("second", there)):
        (tmp_path / name).mkdir()
        tensors = {
            "model.layers.0.up.weight": here + 0,
            "model.layers.10.up.weight": weight,
            "model.layers.2.up.weight": torch.ones(2, 4),
            "model.layers.2.norm.weight": torch.zeros(4),
            "model.embed.weight": torch.zeros(2, 4),
        }
        save_file(tensors, tmp_path / name / "model.safetensors")
    request = {name: str(tmp_path / name) for name in ("first", "second")}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "measured_run.py"), "masks"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)},
    )
    assert json.loads(done.stdout) == {"ok": {"overlap": 0.6, "first_block": 1.0, "agreement": 0.75}}
