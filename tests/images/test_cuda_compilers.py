"""The CUDA compiler that a lock pins is made of several packages, and has to compile: no GPU is needed for that."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.images.package_sources import PackageSources
from orchestrator.images.uv import UvFailed, run_uv
from tests.support.containers import lack

IMAGES = Path(__file__).parents[2] / "images"
NVCC, PARTS = "nvidia-cuda-nvcc", ("nvidia-nvvm", "nvidia-cuda-crt")
CCCL = "nvidia-cuda-cccl"
COMPILER = {NVCC, *PARTS, CCCL, "nvidia-cuda-runtime"}
"""About 110 MB for each lock; the headers come with the runtime and with the C++ library."""
UNREACHABLE = ("dns error", "Failed to fetch", "Connection refused", "error sending request")
KERNEL = "__global__ void add(half *x) { x[threadIdx.x] += half(1.0f); }\n"


def pins(lock: Path) -> dict[str, str]:
    """The lines of each package, hashes included, by its name."""
    entries = re.split(r"^(?=\S)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {entry.partition("==")[0]: entry for entry in entries if "==" in entry}


def version(pin: str) -> tuple[str, ...]:
    """Major and minor of a pinned version."""
    return tuple(pin.partition("==")[2].split()[0].split(".")[:2])


LOCKS = {lock.parents[1].name: lock for lock in sorted(IMAGES.glob("*/locks/cuda.txt")) if NVCC in pins(lock)}
every_lock = pytest.mark.parametrize("name", LOCKS)


def test_there_are_locks_with_a_compiler() -> None:
    assert {"mlc-llm", "vllm"} <= set(LOCKS)


@every_lock
@pytest.mark.parametrize("part", PARTS)
def test_the_parts_of_a_compiler_are_of_one_version(name: str, part: str) -> None:
    pinned = pins(LOCKS[name])
    assert version(pinned[part]) == version(pinned[NVCC])


@pytest.fixture
def toolkit(name: str, tmp_path: Path) -> Path:
    """The folder of the compiler that the lock of `name` pins; skipped where no index or no host compiler is here."""
    if shutil.which("g++") is None:
        lack("nvcc needs g++ beside it, which is not installed")
    pinned = pins(LOCKS[name])
    requirements, target = tmp_path / "compiler.txt", tmp_path / "site"
    requirements.write_text("".join(pinned[package] for package in sorted(COMPILER & pinned.keys())), encoding="utf-8")
    sources = PackageSources.configured()
    install = ["pip", "install", "--python", sys.executable, "--target", str(target), "--no-deps", "--require-hashes"]
    try:
        run_uv([*install, *sources.uv_arguments(), "--requirement", str(requirements)], sources)
    except UvFailed as failure:
        if any(sign in str(failure) for sign in UNREACHABLE):
            pytest.skip(f"no package index can be reached: {failure.summary}")
        raise
    return target / "nvidia" / "cu13"


@pytest.mark.network
@every_lock
def test_a_kernel_is_compiled_by_what_the_lock_pins(name: str, toolkit: Path, tmp_path: Path) -> None:
    """With the C++ library's headers where the image asks for them itself, as FlashInfer's sources need them."""
    asked = "".join(path.read_text(encoding="utf-8") for path in (IMAGES / name).glob("requirements*.in"))
    library = "#include <cuda/std/type_traits>\n" if CCCL in asked else ""
    (tmp_path / "add.cu").write_text(f"#include <cuda_fp16.h>\n{library}{KERNEL}", encoding="utf-8")
    command = [str(toolkit / "bin" / "nvcc"), "-fatbin", "-arch=sm_90a", "-std=c++17", "-o", "add.fatbin", "add.cu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "add.fatbin").stat().st_size > 0
