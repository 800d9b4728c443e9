"""The `fetch` operation, the only one that may use the network: a model or a data set from wherever it is."""

from harness.contract import DatasetSource, FetchRequest, FetchResult, TextFile
from harness.reporter import Reporter


def run(request: FetchRequest, reporter: Reporter) -> FetchResult:
    """Publish the requested model or data set as the output's artifact.

    Raises:
        WorkerError: it cannot be had, or cannot be used, for the reason that the class and message give.
    """
    from harness.fetch.workspace import open_workspace

    with open_workspace(request) as workspace:
        if isinstance(request.parameters.source, DatasetSource):
            from harness.fetch.dataset import fetch_dataset

            return FetchResult(artifact=fetch_dataset(request.parameters.source, workspace, reporter))
        if isinstance(request.parameters.source, TextFile):
            from harness.fetch.text import fetch_text

            return FetchResult(artifact=fetch_text(request.parameters.source, workspace))
        from harness.fetch.model import fetch_model

        return FetchResult(artifact=fetch_model(request.parameters, workspace, reporter))
