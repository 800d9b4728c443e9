"""What was changed in an artifact is found, or stands among what is only stated in it."""

import json
import random
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from orchestrator.artifact.archive import SUMS_NAME, header, sums_text
from orchestrator.artifact.unpacked import NoArtifact
from orchestrator.artifact.verification import Outcome, Statement, Verification
from orchestrator.artifact.verifying import verify
from tests.artifact.packed import (
    CLAIMS,
    Files,
    Small,
    call,
    document,
    items_of,
    pack,
    packed_items,
    quick_to_verify,
    reseal,
    tar_of,
    unpacked_bytes,
)

SPEED = "benchmark/tiny/dense/transformers"
DENSE, PRUNED = "evaluate/tiny/dense/arc_easy", "evaluate/tiny/sparsegpt-50%/arc_easy"


def failing(found: Verification) -> dict[str, str]:
    return {
        one.name: f"{one.findings[0].what}: {one.findings[0].reason}"
        for one in found.checks
        if one.outcome is Outcome.FAILS
    }


def test_what_was_packed_holds_and_says_what_is_only_stated(small: Small) -> None:
    found = verify(small.file)
    assert found.holds and found.run == small.run and not found.is_sealed
    held = {one.name: one.count for one in found.checks if one.outcome is Outcome.HOLDS}
    assert held["record, results and outcomes"] == len(small.record.stages) and held["claims"] == 2
    assert held["scores"] > 10 and held["source"] == len(small.record.stages)
    unsaid = [name for name in small.files if not any(one.is_in(name) for one in found.stated)]
    assert set(unsaid) == {SUMS_NAME, "manifest.json", "environment.json", "scores.json", "verdicts/small.json"}


def test_it_takes_no_torch(small: Small) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.artifact.verifying import verify; "
        "found = verify(Path(sys.argv[1])); sys.exit(not found.holds or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(small.file)], check=False).returncode == 0


def test_the_command_prints_a_row_a_check_and_ends_with_3_where_one_fails(small: Small, tmp_path: Path) -> None:
    done = call("verify", small.file)
    assert done.exit_code == 0 and "holds        recomputation  scores" in done.stdout
    assert "guarded by checksums alone" in done.stdout
    files = {**small.files, "manifest.json": b"{}"}
    done = call("verify", reseal(files, small.run, tmp_path / "bad"), "--json")
    assert done.exit_code == 3
    assert {one["name"]: one["outcome"] for one in json.loads(done.stdout)["checks"]}["scores"] == "holds"
    with pytest.raises(NoArtifact):
        call("verify", tmp_path / "none")


# ---- the file itself


def changed_tar(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, 0o644
    return made


SUMS = (entry(f"run/{SUMS_NAME}"), sums_text({}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tar_of((entry("run/../../etc/cron"), b"x"), SUMS), "its name is none"),
        (tar_of((entry("/etc/cron"), b"x"), SUMS), "its name is none"),
        (tar_of((entry("run/a"), b"x"), (entry("other/b"), b"x"), SUMS), "outside of its folder"),
        (tar_of((entry("run/a"), b"x"), (entry("run/a"), b"y"), SUMS), "stands twice"),
        (tar_of((entry("run/b"), b"x"), (entry("run/a"), b"y"), SUMS), "out of order"),
        (tar_of((entry("run/a", tarfile.SYMTYPE, "/etc/passwd"), b""), SUMS), "a link, a folder or a device"),
        (tar_of((entry("run/a", tarfile.LNKTYPE, "run/b"), b""), SUMS), "a link, a folder or a device"),
        (tar_of((entry("run/a", tarfile.CHRTYPE), b""), SUMS), "a link, a folder or a device"),
        (tar_of((entry("run/a", tarfile.FIFOTYPE), b""), SUMS), "a link, a folder or a device"),
        (tar_of((entry("run/a", tarfile.DIRTYPE), b""), SUMS), "a link, a folder or a device"),
        (tar_of((entry("run/a", tarfile.XHDTYPE), b""), SUMS), "a link, a folder or a device"),
        (tar_of((entry("run/" + "a/" * 30 + "b"), b"x"), SUMS), "folders deep"),
        (tar_of((entry("run/a"), b"x")), "does not end with SHA256SUMS"),
        (tar_of((entry("run/a"), b"x"), SUMS, (entry("run/z"), b"x")), "stands twice, or out of order"),
        (header("run/a", 10**9) + b"short", "ends in the middle"),
        (tar_of((entry("run/a"), b"x"), SUMS) + b"more", "stands behind its end"),
    ],
)
def test_what_is_no_plain_file_in_its_place_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(changed_tar(content))
    found = verify(tmp_path / "bad")
    assert reason in failing(found)["one archive in its only form"]
    assert all(one.outcome is not Outcome.HOLDS for one in found.checks if one.level == "recomputation")


@pytest.mark.parametrize("field", ["uid", "gid", "mtime", "mode", "uname", "gname"])
def test_a_header_that_says_more_is_refused(field: str, tmp_path: Path) -> None:
    odd = entry("run/a")
    setattr(odd, field, "root" if field.endswith("name") else 0o755)
    (tmp_path / "bad").write_bytes(changed_tar(tar_of((odd, b"x"), SUMS)))
    assert "says more than a name and a size" in failing(verify(tmp_path / "bad"))["one archive in its only form"]


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    compressor = zstandard.ZstdCompressor().compressobj()
    with (tmp_path / "bomb").open("wb") as out:
        out.write(compressor.compress(header("run/a", 2**30 - 1)))
        for _ in range(128):
            out.write(compressor.compress(bytes(2**20)))
        out.write(compressor.flush())
    assert (tmp_path / "bomb").stat().st_size < 20_000
    assert "far more than records" in failing(verify(tmp_path / "bomb"))["one archive in its only form"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", bytes(4096), b"\x28\xb5\x2f\xfd"])
def test_what_is_no_archive_at_all_is_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(content)
    assert "one archive in its only form" in failing(verify(tmp_path / "bad"))


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """A bit flipped, bytes left out, put in or twice, or the end cut off."""
    at, length = chance.randrange(len(content)), chance.randint(1, 40)
    return chance.choice(
        [
            content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :],
            content[:at] + content[at + length :],
            content[:at] + chance.randbytes(length) + content[at:],
            content[:at] + content[at : at + length] + content[at:],
            content[:at],
        ]
    )


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_200_changes_of_the_file_are_all_found(whole: bool, small: Small, tmp_path: Path) -> None:
    """Half of them of the packed bytes, half of the unpacked ones, whose frame is made anew."""
    file = small.file
    if not whole:
        few = {name: content for name, content in small.files.items() if name.startswith((small.folder(DENSE), "READ"))}
        file = reseal(few, small.run, tmp_path / "few")
    chance = random.Random(7)
    packed, plain = file.read_bytes(), unpacked_bytes(file)
    tally: Counter[str] = Counter()
    for number in range(200):
        changed = mutated_bytes(packed, chance) if number % 2 else changed_tar(mutated_bytes(plain, chance))
        if changed == packed or (not number % 2 and changed == changed_tar(plain)):
            continue
        (tmp_path / "bad").write_bytes(changed)
        found = failing(verify(tmp_path / "bad"))
        first = "one archive in its only form", "every checksum"
        assert any(name in found for name in first), f"change {number} was accepted"
        tally[next(iter(found))] += 1
    assert tally.total() >= 195 and len(tally) == 2


# ---- what whoever has this tool makes of it: all digests and seals made anew

Change = Callable[[Small, Files], None]


def result(stage: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(small: Small, files: Files) -> None:
        name = f"{small.folder(stage)}/result.json"
        found = document(files, name)
        change(found)
        files[name] = json.dumps(found).encode()

    return apply


def outcomes(stage: str, change: Callable[[list[dict[str, Any]]], object]) -> Change:
    def apply(small: Small, files: Files) -> None:
        name = f"{small.folder(stage)}/out/items.jsonl.zst"
        items = items_of(files, name)
        change(items)
        files[name] = packed_items(items)

    return apply


def at(name: Callable[[Small], str], change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(small: Small, files: Files) -> None:
        found = document(files, name(small))
        change(found)
        files[name(small)] = json.dumps(found).encode()

    return apply


def of_stage(stage: str, name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    return at(lambda small: f"{small.folder(stage)}/{name}", change)


def together(*changes: Change) -> Change:
    def apply(small: Small, files: Files) -> None:
        for change in changes:
            change(small, files)

    return apply


def moved(stage: str, other: str) -> Change:
    """The result of one stage under the key of another."""

    def apply(small: Small, files: Files) -> None:
        for name in ("result.json", "out/items.jsonl.zst"):
            files[f"{small.folder(stage)}/{name}"] = files[f"{small.folder(other)}/{name}"]

    return apply


def renamed_keys(stage: str, other: str) -> Change:
    def change(record: dict[str, Any]) -> None:
        one, two = record["stages"][stage], record["stages"][other]
        one["key"], two["key"] = two["key"], one["key"]

    return at(lambda small: small.run_file, change)


def more_right(item: dict[str, Any]) -> None:
    item |= {"picked": 0, "picked_norm": 0, "log_likelihoods": [-2.0, -3.0]}
    item["correct"] = {"acc_norm": 1.0}


def forged(stage: str) -> Change:
    """A wrong answer made right in everything that shows it, and the metric after it."""

    def all_of(items: list[dict[str, Any]]) -> None:
        wrong = next(item for item in items if not item["correct"]["acc_norm"])
        more_right(wrong)

    return together(
        outcomes(stage, all_of), result(stage, lambda found: found["result"]["metrics"].update(acc_norm=31 / 60))
    )


MUST_FAIL: dict[str, tuple[Change, str]] = {
    "one digit of a metric": (
        result(DENSE, lambda found: found["result"]["metrics"].update(acc_norm=0.501)),
        "record, results and outcomes",
    ),
    "one outcome": (
        outcomes(DENSE, lambda items: items[1].update(correct={"acc_norm": 1.0})),
        "record, results and outcomes",
    ),
    "an outcome with its metric": (
        together(
            outcomes(DENSE, lambda items: items[1].update(correct={"acc_norm": 1.0})),
            result(DENSE, lambda found: found["result"]["metrics"].update(acc_norm=31 / 60)),
        ),
        "record, results and outcomes",
    ),
    "right answers that are others than in the next evaluation": (
        together(
            outcomes(DENSE, lambda items: items[1].update(gold=1, correct={"acc_norm": 1.0})),
            result(DENSE, lambda found: found["result"]["metrics"].update(acc_norm=31 / 60)),
        ),
        "record, results and outcomes",
    ),
    "items and metric forged in everything, and the scores left": (forged(PRUNED), "scores"),
    "an item less": (outcomes(DENSE, lambda items: items.pop()), "record, results and outcomes"),
    "a result of another variant": (moved(PRUNED, DENSE), "each stage under its own key"),
    "two results changed for each other in the record": (renamed_keys(PRUNED, DENSE), "inputs"),
    "a parameter in the key": (
        of_stage(DENSE, "provenance.json", lambda one: one["material"]["parameters"].update(limit=10)),
        "record, results and outcomes",
    ),
    "a parameter of another form": (
        of_stage(DENSE, "provenance.json", lambda one: one["material"]["parameters"].update(limit="all")),
        "record, results and outcomes",
    ),
    "a parameter in the key that no outcome shows": (
        of_stage(SPEED, "provenance.json", lambda one: one["material"]["parameters"].update(warmup=9)),
        "each stage under its own key",
    ),
    "a parameter in the record": (
        at(lambda small: small.run_file, lambda one: one["stages"][SPEED]["parameters"].update(warmup=9)),
        "each stage under its own key",
    ),
    "a parameter in the request": (
        of_stage(DENSE, "request.json", lambda one: one["parameters"].update(limit=10)),
        "requests",
    ),
    "a request of another stage": (of_stage(DENSE, "request.json", lambda one: one.update(id=PRUNED)), "requests"),
    "another protocol": (result(DENSE, lambda found: found["result"].update(protocol="mine")), "requests"),
    "another setting of the checkpoint": (
        result("compress/tiny/sparsegpt-50%", lambda found: found["result"]["artifact"].update(setting="2:4")),
        "requests",
    ),
    "the model's source": (
        result("fetch/tiny", lambda found: found["result"]["artifact"].update(source="pypi:other==1")),
        "requests",
    ),
    "a peak that its samples do not give": (
        result(SPEED, lambda found: found["result"]["speeds"][0].update(decode_tokens_per_second=99.0)),
        "record, results and outcomes",
    ),
    "a speed with its samples, and the scores left": (
        result(
            SPEED,
            lambda found: found["result"]["speeds"][0].update(decode_tokens_per_second=99.0, samples=[99.0, 99.0]),
        ),
        "scores",
    ),
    "a score": (at(lambda _: "scores.json", lambda found: found["scores"][1].update(value=99.9)), "scores"),
    "an interval": (
        at(
            lambda _: "scores.json",
            lambda found: [one["interval"].update(high=1.0) for one in found["values"] if one["interval"]][:1],
        ),
        "scores",
    ),
    "a verdict": (
        at(lambda _: "verdicts/small.json", lambda one: one["findings"][0].update(verdict="FAILS")),
        "claims",
    ),
    "a claim": (
        lambda small, files: files.update(
            {"claims/small.yaml": CLAIMS.replace("at_least: 100", "at_least: 200").encode()}
        ),
        "claims",
    ),
    "the manifest": (at(lambda _: "manifest.json", lambda one: one.update(device="cuda")), "manifest and environment"),
    "the environment": (
        at(lambda _: "environment.json", lambda one: one.pop("evaluate")),
        "manifest and environment",
    ),
    "the image that ran": (
        at(lambda small: small.run_file, lambda one: one["facts"]["images"].update({"evaluate on cpu": "another"})),
        "each stage under its own key",
    ),
    "the device": (
        at(lambda small: small.run_file, lambda one: one["facts"].update(device_model="a better one")),
        "each stage under its own key",
    ),
    "the source that measured": (
        lambda small, files: files.update({"source/harness/evaluation/evaluate.py": b"# nothing"}),
        "source",
    ),
    "a stage without its files": (
        lambda small, files: [files.pop(name) for name in [*files] if name.startswith(small.folder(DENSE))],
        "record, results and outcomes",
    ),
    "a stage that nobody names": (
        lambda small, files: files.update({f"store/stages/{'0' * 64}/result.json": b"{}"}),
        "record, results and outcomes",
    ),
    "a file that has no place": (lambda small, files: files.update({"run.sh": b"rm"}), "no file without a place"),
    "a result that is no JSON": (
        lambda small, files: files.update({f"{small.folder(DENSE)}/result.json": b"[" * 100_000}),
        "record, results and outcomes",
    ),
    "a score that says NaN": (lambda small, files: files.update({"scores.json": b'{"run": NaN}'}), "scores"),
}


@pytest.mark.parametrize("what", MUST_FAIL)
def test_what_is_sealed_anew_is_found_where_something_else_gives_it(what: str, small: Small, tmp_path: Path) -> None:
    change, check = MUST_FAIL[what]
    files = dict(small.files)
    change(small, files)
    found = verify(reseal(files, small.run, tmp_path / "forged"))
    assert check in failing(found), [*failing(found).items()]


def test_what_only_a_signature_guards_is_named(small: Small, tmp_path: Path) -> None:
    """A speed with its samples, and all that follows from it, made by whoever packs a store of forged results."""
    name = f"{small.folder(DENSE)}/provenance.json"
    files = dict(small.files)
    files[name] = json.dumps({**document(files, name), "wall_seconds": 0.1}).encode()
    found = verify(reseal(files, small.run, tmp_path / "forged"))
    assert found.holds and not found.is_sealed
    assert "durations" in next(one.says for one in found.stated if one.is_in(name) and "dates" in one.says)


def leaves(found: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(found, dict | list):
        for name in found if isinstance(found, dict) else range(len(found)):
            yield from leaves(found[name], (*place, name))
    else:
        yield place


def otherwise(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.2:
        return chance.choice(
            [None, "", "changed", [], {}, [1], {"a": 1}, True, -1, 0, 10**30, 1e308, "\x1b[31m", "../x"]
        )
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + chance.choice([-1, 1, 10])
    if isinstance(value, float):
        return value * chance.choice([0.5, 0.999, 1.001, 2]) + chance.choice([0, 1e-3])
    return "changed" if value is None else f"{value}x"


def mutate_a_field(files: Files, chance: random.Random) -> tuple[str, tuple[Any, ...]]:
    """One value of one document, or of one item, is another one."""
    names = [name for name in files if name.endswith((".json", ".zst")) and not name.startswith(("images/", "ro-"))]
    name = chance.choice(names)
    is_items = name.endswith(".zst")
    found = items_of(files, name) if is_items else document(files, name)
    place = chance.choice([*leaves(found)])
    inside = found
    for part in place[:-1]:
        inside = inside[part]
    was = inside[place[-1]]
    while json.dumps(inside[place[-1]]) == json.dumps(was):  # None may be drawn for None, and 0.0 doubled is 0.0
        inside[place[-1]] = otherwise(was, chance)
    files[name] = packed_items(found) if is_items else json.dumps(found).encode()
    return name, place


def named(stated: tuple[Statement, ...], name: str) -> bool:
    return any(one.is_in(name) for one in stated)


@pytest.mark.parametrize("count", [15, pytest.param(300, marks=pytest.mark.slow)])  # 300 take a minute
def test_random_fields_sealed_anew_are_found_or_named_as_stated(count: int, small: Small, tmp_path: Path) -> None:
    chance = random.Random(11)
    found_by: Counter[str] = Counter()
    for number in range(count):
        files = dict(small.files)
        name, place = mutate_a_field(files, chance)
        found = verify(reseal(files, small.run, tmp_path / "forged"))
        if found.holds:
            assert named(found.stated, name), (number, name, place)
            is_a_time = place[:1] == ("stages",) and place[-1] in ("started", "wall_seconds")
            is_figure_or_key = "metrics" in place or place[:1] in (("stages",), ("material",))
            assert is_a_time or not is_figure_or_key, (number, name, place)
        found_by["stated" if found.holds else next(iter(failing(found)))] += 1
    assert found_by.total() == count and found_by["stated"] < count / 2, found_by


# ---- signatures


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("author", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(command, check=True)
        key = (folder / f"{name}.pub").read_text().split()
        (folder / f"{name}.signers").write_text(f"{name}@example.org {key[0]} {key[1]}\n")
    return folder


def test_a_signature_guards_all_that_is_in_the_file(small: Small, keys: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(small.file, tmp_path / "signed"))
    from orchestrator.artifact.signing import sign

    assert sign(file, keys / "author") == tmp_path / "signed.sig"
    done = call("verify", file, "--signers", keys / "author.signers")
    assert done.exit_code == 0 and "guarded by the signature of author@example.org" in done.stdout
    unsigned = call("verify", file)
    assert unsigned.exit_code == 0 and "signed.sig lies beside it" in unsigned.stdout
    files = dict(small.files)
    files["README.md"] += b" "
    forged = reseal(files, small.run, tmp_path / "forged")
    assert verify(forged).holds
    shutil.copy(tmp_path / "signed.sig", tmp_path / "forged.sig")
    reasons = failing(verify(forged, keys / "author.signers"))
    assert reasons == {"signature of the whole file": "forged.sig: the signature is not of this file"}


def test_a_signature_of_somebody_else_or_none_at_all_fails(small: Small, keys: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(small.file, tmp_path / "signed"))
    done = call("verify", file, "--signers", keys / "author.signers")
    assert done.exit_code == 3 and "there is no signature signed.sig" in done.stdout
    from orchestrator.artifact.signing import sign

    sign(file, keys / "other")
    done = call("verify", file, "--signers", keys / "author.signers")
    assert done.exit_code == 3 and "by nobody who is among the signers" in done.stdout


def test_packing_signs_what_it_writes(small: Small, keys: Path, tmp_path: Path) -> None:
    store = small.file.parent / "store"
    with pytest.MonkeyPatch.context() as patch:
        quick_to_verify(patch, small.record, store)
        pack(store, tmp_path / "one", "--sign", keys / "author")
    assert verify(tmp_path / "one", keys / "author.signers").signers == ("author@example.org",)
