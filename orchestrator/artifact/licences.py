"""The data sets that may be given away with a run, and under which licence; of all others it is not known here."""

SHARED = {
    "wikitext2": "CC-BY-SA-3.0",
    "arc_easy": "CC-BY-SA-4.0",
    "arc_challenge": "CC-BY-SA-4.0",
    "boolq": "CC-BY-SA-3.0",
    "hellaswag": "MIT",
    "mmlu": "MIT",
    "truthfulqa": "Apache-2.0",
}
"""As the data sets' own pages state them. By the names in `images/fetch/image.toml`."""
