"""The built wheel, alone in an environment outside any checkout, does what the checkout does."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.contract import CONTRACT_VERSION
from orchestrator.images.package_sources import PackageSources
from orchestrator.images.uv import run_uv
from orchestrator.installation import shipped_manifests

ROOT = Path(__file__).parents[2]
NEED_A_CHECKOUT = {"track2-offline", "full-small"}
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


def version_of(wheel: Path) -> str:
    return wheel.name.split("-")[1]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed") / "environment"
    sources = PackageSources.configured()
    requirements = ROOT / "requirements" / "orchestrator.txt"
    run_uv(["venv", "--no-config", "--python", sys.executable, str(folder)], sources)
    install = ["pip", "install", "--python", str(folder / "bin" / "python"), "--no-deps", *sources.uv_arguments()]
    run_uv([*install, "--require-hashes", "--requirement", str(requirements)], sources)
    run_uv([*install, str(wheel)], sources)
    return folder


@pytest.fixture
def installed(environment: Path, tmp_path: Path) -> Command:
    """Runs a program of the environment in an empty folder, without anything that points at the checkout."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "LLMCBENCH_DATA", "LLMCBENCH_STORE", "LLMCBENCH_IMAGES")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}

    def run(*words: object, program: str = "orchestrator", **more: str) -> "subprocess.CompletedProcess[str]":
        command = [str(environment / "bin" / program), *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, env=variables | more, capture_output=True, text=True, check=False)

    return run


def test_it_carries_images_manifests_schemas_types_and_the_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", "images", "manifests"], cwd=ROOT, capture_output=True, text=True)
    files = tracked.stdout.split() or [path.relative_to(ROOT).as_posix() for path in shipped_manifests().values()]
    wanted = {f"orchestrator/shipped/{name}" for name in files if Path(name).stem not in NEED_A_CHECKOUT}
    wanted |= {"harness/contract/schema.json", "harness/py.typed", "orchestrator/py.typed"}
    wanted |= {f"llmcbench-{version_of(wheel)}.dist-info/licenses/LICENSE"}
    assert wanted - names == set()
    assert not [name for name in names if name.startswith(("tests/", "images/", "manifests/")) or name.endswith(".pyc")]


@pytest.mark.network
def test_it_says_its_versions(installed: Command, wheel: Path) -> None:
    assert installed("--version").stdout == f"llmcbench {version_of(wheel)} (contract {CONTRACT_VERSION})\n"


@pytest.mark.network
def test_it_lists_the_images_of_the_checkout(installed: Command) -> None:
    listed = installed("images", "list")
    assert listed.returncode == 0, listed.stderr
    for folder in (path.parent.name for path in (ROOT / "images").glob("*/image.toml")):
        assert f"{folder}: " in listed.stdout


@pytest.mark.parametrize("name", sorted(set(shipped_manifests()) - NEED_A_CHECKOUT))
@pytest.mark.network
def test_it_plans_every_manifest_that_it_carries_by_name(installed: Command, name: str) -> None:
    planned = installed("plan", name, "--runtime", "process", "--device", "cpu", "--jsonl")
    assert planned.returncode == 0, planned.stderr
    assert [json.loads(line)["id"] for line in planned.stdout.splitlines()]


@pytest.mark.network
def test_a_manifest_that_it_does_not_carry_is_refused_with_the_nearest(installed: Command) -> None:
    refused = installed("plan", "quik")
    assert refused.returncode == 2
    assert "did you mean 'quick'" in refused.stderr


@pytest.mark.network
def test_doctor_finds_everything(installed: Command) -> None:
    looked = installed("doctor")
    assert looked.returncode == 0, looked.stdout + looked.stderr
    assert "methods: " in looked.stdout
    assert "wanda" in looked.stdout


@pytest.mark.network
def test_images_of_ones_own_are_written_and_found(installed: Command) -> None:
    for name, kind in (("shrink", "method"), ("my-engine", "backend")):
        made = installed("images", "new", name, "--kind", kind, "--into", f"around-{name}")
        assert made.returncode == 0, made.stderr
    named = installed("images", "list", "--images", "around-shrink", "--images", "around-my-engine/my-engine")
    listed = installed("images", "list", LLMCBENCH_IMAGES="around-shrink:around-my-engine")
    assert named.stdout == listed.stdout
    assert "    method: shrink\n" in listed.stdout
    assert "    backend: my-engine\n" in listed.stdout


@pytest.mark.network
def test_images_and_findings_are_documents_too(installed: Command) -> None:
    images = json.loads(installed("images", "list", "--json").stdout)["images"]
    assert {"wanda", "vllm"} <= {image["name"] for image in images}
    assert all(Path(image["folder"]).is_dir() for image in images)
    findings = json.loads(installed("doctor", "--json").stdout)["findings"]
    assert {"python", "methods", "process"} <= {finding["subject"] for finding in findings}


@pytest.mark.network
def test_it_writes_the_completion_of_a_shell(installed: Command) -> None:
    shown = installed(_ORCHESTRATOR_COMPLETE="source_bash")
    assert "complete" in shown.stdout and "_ORCHESTRATOR_COMPLETE=" in shown.stdout


@pytest.mark.network
def test_workers_import_a_harness_that_lies_alone(installed: Command, tmp_path: Path) -> None:
    """Beside it in site-packages lie the orchestrator's own packages, which must not replace those of a lock."""
    where = "from pathlib import Path; from orchestrator.runtime.environments import Environments; " + (
        "print(Environments(Path('environments')).harness())"
    )
    folder = Path(installed("-c", where, program="python").stdout.strip())
    assert [path.name for path in folder.iterdir()] == ["harness"]
    assert folder.is_relative_to(tmp_path)
    found = "import harness; from harness.contract import harness_digest; print(harness.__file__, harness_digest())"
    copied = installed("-P", "-c", found, program="python", PYTHONPATH=str(folder)).stdout.split()
    own = installed("-P", "-c", found, program="python").stdout.split()
    assert copied[0] == str(folder / "harness" / "__init__.py")
    assert own[0] != copied[0]
    assert own[1] == copied[1]
