"""Asks the Hugging Face hub for models and data sets. No exception of its client leaves here.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and the usual proxy variables hold.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_ANSWER_SECONDS = 10.0
_MOST_CONFIG_BYTES = 2**20
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_BY_HAND = "write the commit yourself, all 40 digits"


class HubUnavailable(OrchestratorError):
    """The hub does not answer: asking for another model would not help."""


class NotOnHub(OrchestratorError):
    """The hub answers, but not for this model and revision."""


def current_commit(repository: str, revision: str | None) -> str:
    """The commit that `revision` (None: the default branch) of a model is at now.

    Raises:
        HubUnavailable: the hub's client is not installed, is set to be offline, or gets no answer.
        NotOnHub: there is no such model or revision, or it is not ours to see.
    """
    with _explained(repository, revision, "model"):
        commit = _client().model_info(repository, revision=revision, timeout=_ANSWER_SECONDS).sha
    if commit is None:
        raise NotOnHub(f"the hub names no commit of {repository}", hint=_BY_HAND)
    return str(commit)


def weights_bytes(repository: str, revision: str) -> int | None:
    """The size of a model's weights at a commit, as the hub states it; None where it has none that we would fetch.

    Raises:
        HubUnavailable: the hub's client is not installed, is set to be offline, or gets no answer.
        NotOnHub: there is no such model or revision, or it is not ours to see.
    """
    with _explained(repository, revision, "model"):
        info = _client().model_info(repository, revision=revision, files_metadata=True, timeout=_ANSWER_SECONDS)
    sizes = [one.size or 0 for one in info.siblings or () if _WEIGHTS.fullmatch(one.rfilename)]
    return sum(sizes) or None


def find_dataset(repository: str, revision: str) -> None:
    """Ask whether the hub shows us a data set at a commit; nothing of it is fetched.

    Raises:
        HubUnavailable: the hub's client is not installed, is set to be offline, or gets no answer.
        NotOnHub: there is no such data set or revision, or it is not ours to see.
    """
    with _explained(repository, revision, "data set"):
        _client().dataset_info(repository, revision=revision, timeout=_ANSWER_SECONDS)


def _client() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


@contextmanager
def _explained(repository: str, revision: str | None, kind: str) -> Iterator[None]:
    try:
        import httpx
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as absent:
        raise HubUnavailable(
            "the hub's client huggingface_hub is not installed here", hint=f"install it, or {_BY_HAND}"
        ) from absent
    try:
        yield
    except OfflineModeIsEnabled as failure:
        raise HubUnavailable(
            "the hub cannot be asked: HF_HUB_OFFLINE is set", hint=f"unset it, or {_BY_HAND}"
        ) from failure
    except RevisionNotFoundError as failure:
        raise NotOnHub(f"{repository} has no revision {revision!r}", hint="name one that it has, or none") from failure
    except RepositoryNotFoundError as failure:
        raise NotOnHub(
            f"the hub does not show us {repository}: it does not exist, or it is private",
            hint="check the name; for a private one set HF_TOKEN",
        ) from failure
    except HFValidationError as failure:
        raise NotOnHub(f"{repository} is no name of a {kind}: {failure}", hint="write hub:org/name") from failure
    except (HfHubHTTPError, httpx.HTTPError, OSError) as failure:
        reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
        raise HubUnavailable(
            f"the hub cannot be asked for {repository}: {reason}",
            hint=f"check the network, HTTPS_PROXY and HF_ENDPOINT (a mirror), or {_BY_HAND}",
        ) from failure


def model_config(repository: str, revision: str) -> dict[str, Any] | None:
    """The `config.json` of a model at a commit; None where the hub shows us none.

    It is asked for once: a plan goes on without it, and is not kept waiting by the client's own retries.

    Raises:
        HubUnavailable: the hub's client is not installed, is set to be offline, or gets no answer.
    """
    try:
        import httpx
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not declared
    except ImportError as absent:
        raise HubUnavailable("the hub's client huggingface_hub is not installed here", hint="install it") from absent
    try:
        endpoint = os.environ.get("HF_ENDPOINT") or None
        address = hf_hub_url(repository, "config.json", revision=revision, endpoint=endpoint)
        with get_session().stream("GET", address, headers=build_hf_headers(), timeout=_ANSWER_SECONDS) as answer:
            content = b""
            for part in answer.iter_bytes():
                content += part
                if not answer.is_success or len(content) > _MOST_CONFIG_BYTES:
                    return None
        config = json.loads(content)
    except (httpx.HTTPError, OSError) as failure:
        raise HubUnavailable(f"the hub does not answer for {repository}", hint="check the network") from failure
    except (HFValidationError, RecursionError, ValueError):
        return None
    return config if isinstance(config, dict) else None
