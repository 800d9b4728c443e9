"""Faults injected into whole runs: real commands, real worker processes, and what is left afterwards."""
