"""When each stage runs: `local` on this host. One small protocol leaves room for others."""

from orchestrator.executor.base import Executor, Work
from orchestrator.executor.local import LocalExecutor

__all__ = ["Executor", "LocalExecutor", "Work"]
