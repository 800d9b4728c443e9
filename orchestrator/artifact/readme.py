"""The page that an artifact begins with: what it is, what it holds and lacks, and how to check it."""

from orchestrator.artifact.contents import Contents
from orchestrator.store import RunRecord


def readme(contents: Contents, record: RunRecord) -> str:
    """In Markdown."""
    lacks = [f"- {one}" for one in contents.missing] or ["- nothing"]
    withheld = ", ".join(f"{count} {kind}" for kind, count in contents.withheld.items()) or "nothing"
    tolerances = contents.tolerances
    return "\n".join(
        (
            f"# {contents.run}",
            "",
            f"A run of LLMCBench {contents.program} on {record.device_model} ({record.runtime} runtime), "
            f"begun {record.created:%Y-%m-%d}: {contents.results} results of {contents.stages} stages. "
            f"Source and images: {contents.origin}.",
            "",
            "| | |",
            "| --- | --- |",
            "| `manifest.json` | what was asked |",
            "| `store/runs/` | the run's record: what it was resolved to, how far each stage came, decisions |",
            "| `store/stages/<key>/` | request, result, provenance (with all that its key is of), outcomes of items |",
            "| `scores.json` | scores and values with their intervals, as `orchestrator score --json` prints them |",
            "| `claims/`, `verdicts/` | what was claimed beforehand, and whether it holds of this run |",
            "| `images/`, `source/` | descriptions, locks and Dockerfiles of the images; the source that measured |",
            "| `environment.json` | libraries and devices that the workers saw, by image |",
            "| `artifact.json` | this page for programs, and the tolerances below |",
            "| `SHA256SUMS` | checksums of all of these: `sha256sum -c SHA256SUMS` |",
            "",
            "## To check it",
            "",
            "```",
            "orchestrator artifact verify FILE                 # offline: all that follows from the items",
            "orchestrator artifact reproduce FILE --stages 10  # runs a sample of it again here, and judges each value",
            "orchestrator score last --store store             # its figures, in the unpacked folder",
            "```",
            "",
            "What each of them proves, and what only a signature can, is in `docs/artifacts.md` of the project.",
            "",
            "## Tolerances",
            "",
            "On the same lock, source and processor: equal bytes. Elsewhere:",
            "",
            f"- picks: at most {tolerances.most_other_picks:.0%} of a task's items otherwise, and always one",
            f"- log-likelihoods: {tolerances.most_mean_nats} nats a choice on average, or so many in "
            f"{tolerances.tokens_of_a_choice:g} tokens of a text; a perplexity within "
            f"{tolerances.most_perplexity_percent:g} %",
            "- scores: within the interval that is packed",
            f"- speeds and memory: never by themselves; their ratio to dense's within a factor of "
            f"{tolerances.most_ratio_factor:g}",
            "",
            "## What is missing",
            "",
            *lacks,
            "",
            f"Withheld from texts: {withheld}.",
            "",
        )
    )
