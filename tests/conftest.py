import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton asks once, when it is first imported, which any test may do

if not os.environ.get("LLMCBENCH_DATA"):
    os.environ.pop("LLMCBENCH_DATA", None)  # the Makefile exports it empty where there is no local copy
