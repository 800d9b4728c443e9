"""Evaluate: one task on one checkpoint. The protocols are in `docs/protocols.md`."""

from harness.contract import EvaluateRequest, EvaluateResult
from harness.reporter import Reporter


def run(request: EvaluateRequest, reporter: Reporter) -> EvaluateResult:
    """Score the checkpoint on the task that the request names.

    Raises:
        Unsupported: the task is unknown, or the model cannot do it.
        MissingData: the data set lacks the split, or has too little text.
        BadRequest: an input is missing or not usable.
    """
    from harness.evaluation.evaluate import evaluate

    return evaluate(request, reporter)
