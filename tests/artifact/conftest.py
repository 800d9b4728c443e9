"""One small run, packed once for all that look at it or change a copy of it."""

from collections.abc import Iterator

import pytest

from tests.artifact.packed import CLAIMS, Small, pack, quick_to_verify, small_run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    folder = tmp_path_factory.mktemp("small")
    bench, record = small_run(folder)
    (folder / "small.yaml").write_text(CLAIMS)
    with pytest.MonkeyPatch.context() as patch:
        quick_to_verify(patch, record, bench.root)
        done = pack(bench.root, folder / "small.tar.zst", "--claims", folder / "small.yaml")
    assert done.exit_code == 0, done.output
    yield Small(folder / "small.tar.zst", record)
