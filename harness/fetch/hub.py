"""The Hugging Face hub: what a pinned revision holds, and some of its files. No exception of its client leaves here.

`HF_ENDPOINT`, `HF_TOKEN` and the usual proxy variables hold. A hub that does not answer is given up after seconds.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.contract import digest_file
from harness.errors import MissingData
from harness.reporter import Reporter

_CONNECT_SECONDS = 5.0
_LOCAL_COPY = "or give a local copy (`dir:PATH` for a model, LLMCBENCH_DATA for data)"


@dataclass(frozen=True)
class HubFile:
    """`sha256` is known for the large files only, which the hub keeps by their digest."""

    size_bytes: int
    sha256: str | None


@dataclass(frozen=True)
class HubRepository:
    """A repository at a commit; `repository_type` is `model` or `dataset`."""

    name: str
    revision: str
    repository_type: str = "model"

    @property
    def endpoint(self) -> str | None:
        return os.environ.get("HF_ENDPOINT") or None

    def list_files(self) -> dict[str, HubFile]:
        """Every file of the revision by its path.

        Raises:
            MissingData: the hub does not answer, or does not give this revision to us.
        """
        from huggingface_hub import HfApi

        hub = HfApi(endpoint=self.endpoint)
        ask = hub.model_info if self.repository_type == "model" else hub.dataset_info
        with self._explained():
            info = ask(self.name, revision=self.revision, files_metadata=True, timeout=_CONNECT_SECONDS)
        return {
            sibling.rfilename: HubFile(sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else None)
            for sibling in info.siblings or ()
        }

    def download(self, names: Iterable[str], files: dict[str, HubFile], folder: Path, reporter: Reporter) -> None:
        """Bring `names` into `folder`, at their paths in the repository, and check the sha256 where it is known.

        Raises:
            MissingData: a file cannot be downloaded, or arrives altered.
        """
        from huggingface_hub import hf_hub_download

        wanted = tuple(names)
        total = sum(files[name].size_bytes for name in wanted)
        done = 0
        for name in wanted:
            with self._explained():
                path = Path(
                    hf_hub_download(
                        self.name,
                        name,
                        revision=self.revision,
                        repo_type=self.repository_type,
                        local_dir=folder,
                        etag_timeout=_CONNECT_SECONDS,
                        endpoint=self.endpoint,
                    )
                )
            expected = files[name].sha256
            if expected is not None and digest_file(path) != expected:
                raise MissingData(
                    f"{name} of {self.name} arrived with another sha256 than the hub states",
                    hint="run it again; if it stays, a proxy or mirror alters the file",
                )
            done += files[name].size_bytes
            reporter.progress(done, total, "bytes")
        shutil.rmtree(folder / ".cache", ignore_errors=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import httpx
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

        what = f"{self.repository_type} {self.name}@{self.revision}"
        try:
            yield
        except OfflineModeIsEnabled as failure:
            raise MissingData(
                f"{what} cannot be fetched: HF_HUB_OFFLINE is set", hint=f"unset it, {_LOCAL_COPY}"
            ) from failure
        except RepositoryNotFoundError as failure:
            raise MissingData(
                f"the hub does not give us {what}: it does not exist, or it is gated or private",
                hint=f"check the name; for a gated one accept its terms and set HF_TOKEN, {_LOCAL_COPY}",
            ) from failure
        except HfHubHTTPError as failure:
            raise MissingData(
                f"the hub refused {what}: {_first_line(failure)}",
                hint=f"check the revision and the files it has, {_LOCAL_COPY}",
            ) from failure
        except (httpx.HTTPError, OSError) as failure:
            if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise MissingData(
                f"the hub cannot be reached for {what}: {_first_line(failure)}",
                hint=f"check the network, HTTPS_PROXY and HF_ENDPOINT (a mirror), {_LOCAL_COPY}",
            ) from failure


def _first_line(failure: Exception) -> str:
    text = str(failure).strip() or type(failure).__name__
    return text.splitlines()[0]
