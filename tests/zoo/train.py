"""Trains the models of the zoo from scratch: `python tests/zoo/train.py --data DIR --out DIR`.

`--data` is a folder in the layout that LLMCBENCH_DATA takes. Every model trains in a process of its own, all at once.
"""

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar
from zoo_families import CONTEXT_TOKENS, ZOO, ZooModel
from zoo_text import encode, for_transformers, read_text, train_tokenizer

TRAINING_NAME = "training.json"
SUMS_NAME = "SHA256SUMS"
_WARMUP_SHARE = 0.05
_FINAL_LEARNING_RATE_SHARE = 0.05
_WEIGHT_DECAY = 0.1


@dataclass(frozen=True)
class Schedule:
    steps: int
    sequences: int
    seed: int

    def learning_rate(self, step: int, peak: float) -> float:
        """A linear warm-up, then a cosine down to a twentieth of the peak."""
        warmup = max(1, int(self.steps * _WARMUP_SHARE))
        if step < warmup:
            return peak * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        share = _FINAL_LEARNING_RATE_SHARE + (1 - _FINAL_LEARNING_RATE_SHARE) * (1 + math.cos(math.pi * done)) / 2
        return peak * share


def main() -> None:
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.worker:
        _train_one(arguments)
        return
    text = read_text(arguments.data)
    tokenizer = train_tokenizer(text.train)
    work = arguments.out / ".work"
    work.mkdir(exist_ok=True)
    tokenizer.save(str(work / "tokenizer.json"))
    torch.save({"train": encode(tokenizer, text.train), "held_out": encode(tokenizer, text.held_out)}, work / "tokens")
    names = [arguments.model] if arguments.model else list(ZOO)
    failed = _train_all(names)
    _write_training(arguments.out, work, names)
    for path in sorted(work.iterdir()):
        path.unlink()
    work.rmdir()
    _write_sums(arguments.out)
    if failed:
        raise SystemExit(f"not trained: {', '.join(failed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=ZOO)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--sequences", type=int, default=32, help=f"sequences of {CONTEXT_TOKENS} tokens a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _train_all(names: list[str]) -> list[str]:
    """One process a model, all at once; the names of those that failed."""
    started = {
        name: subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--model", name, "--worker"]) for name in names
    }
    return [name for name, process in started.items() if process.wait() != 0]


def _train_one(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    disable_progress_bar()
    name = arguments.model
    schedule = Schedule(arguments.steps, arguments.sequences, arguments.seed)
    work = arguments.out / ".work"
    tokens = {split: part.to(arguments.device) for split, part in torch.load(work / "tokens").items()}
    model = _make(ZOO[name], schedule.seed).to(arguments.device)
    began = time.perf_counter()
    _optimise(name, model, tokens["train"], schedule)
    seconds = time.perf_counter() - began
    model = model.to(torch.bfloat16)
    folder = arguments.out / name
    model.save_pretrained(folder)
    for_transformers(Tokenizer.from_file(str(work / "tokenizer.json"))).save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    stored = model.float()
    losses = {split: _mean_loss(stored, part[: tokens["held_out"].numel()]) for split, part in tokens.items()}
    _log(name, f"train loss {losses['train']:.3f}, held-out loss {losses['held_out']:.3f}, {seconds:.0f} s")
    report = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": schedule.steps,
        "tokens_per_step": schedule.sequences * CONTEXT_TOKENS,
        "seed": schedule.seed,
        "distinct_train_tokens": tokens["train"].numel(),
        "held_out_tokens": tokens["held_out"].numel(),
        "train_loss": losses["train"],
        "held_out_loss": losses["held_out"],
        "train_perplexity": math.exp(losses["train"]),
        "held_out_perplexity": math.exp(losses["held_out"]),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "cpu",
    }
    (work / f"{name}.json").write_text(json.dumps(report), encoding="utf-8")


def _make(zoo_model: ZooModel, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(zoo_model.model_type, **zoo_model.shape)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model


def _optimise(name: str, model: PreTrainedModel, tokens: torch.Tensor, schedule: Schedule) -> None:
    peak = ZOO[name].learning_rate
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": _WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    draw = torch.Generator().manual_seed(schedule.seed)
    offsets = torch.arange(CONTEXT_TOKENS + 1, device=tokens.device)
    model.train()
    for step in range(schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate(step, peak)
        starts = torch.randint(0, tokens.numel() - CONTEXT_TOKENS, (schedule.sequences, 1), generator=draw)
        batch = tokens[starts.to(tokens.device) + offsets]
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
            loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == schedule.steps - 1:
            _log(name, f"step {step + 1}/{schedule.steps}, loss {loss.item():.3f}")
    model.eval()


def _loss(model: PreTrainedModel, batch: torch.Tensor) -> torch.Tensor:
    """The mean negative log-likelihood, in nats a token. batch: [sequences, tokens + 1]."""
    logits = model(batch[:, :-1], use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def _mean_loss(model: PreTrainedModel, tokens: torch.Tensor) -> float:
    """Over all whole contexts of `tokens`, without overlap, in float32 arithmetic."""
    contexts = tokens.unfold(0, CONTEXT_TOKENS + 1, CONTEXT_TOKENS)
    losses = [_loss(model, batch).double() * len(batch) for batch in contexts.split(16)]
    return (sum(losses) / len(contexts)).item()


def _write_training(out: Path, work: Path, names: list[str]) -> None:
    path = out / TRAINING_NAME
    reports = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in names:
        if (work / f"{name}.json").is_file():
            reports[name] = json.loads((work / f"{name}.json").read_text(encoding="utf-8"))
    path.write_text(json.dumps(reports, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_sums(out: Path) -> None:
    """In the form of sha256sum, over the files of every model folder."""
    files = sorted(path for name in ZOO for path in (out / name).glob("*"))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(out).as_posix()}" for path in files]
    (out / SUMS_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _log(name: str, message: str) -> None:
    sys.stderr.write(f"{name}: {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
