"""In a process that a test starts: write down which functions with faults it reaches (see `plugin.py`)."""

import os

if path := os.environ.get("FAULTS_REACHED"):
    from mutmut.mutation import trampoline

    def record(name: str, caller: str | None = None) -> None:
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 - the fewest imports in a child
            file.write(f"{name}\n")

    trampoline.record_trampoline_hit = record
