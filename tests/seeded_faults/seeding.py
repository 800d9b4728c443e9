"""Small faults of a file, made by mutmut: each is a copy of its function, and a name says which of them is called."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import libcst
from mutmut.mutation.file_mutation import (
    MutatedFile,
    Mutation,
    combine_mutations_to_source,
    create_mutations,
    group_by_top_level_node,
)


@dataclass(frozen=True)
class Fault:
    name: str
    """`module.x_function__mutmut_number`, where the number counts all faults of the function."""
    switch: str
    """The name by which mutmut's trampoline is asked for it, in a file that holds some of them."""
    difference: str
    """The lines that differ, each behind `-` or `+`."""


class Source:
    """A file and all faults that could be in it."""

    def __init__(self, file: Path, root: Path) -> None:
        path = file.relative_to(root)
        self._file = file
        self._prefix = ".".join(path.with_suffix("").parts).removesuffix(".__init__") + "."
        self._module, mutations, self._classes, self._functions = create_mutations(str(path), file.read_text("utf-8"))
        self._numbered = [
            (number, mutation)
            for inside, of_function in group_by_top_level_node(mutations).items()
            if isinstance(inside, libcst.FunctionDef)  # what stands in a class apart from that is not seeded
            for number, mutation in enumerate(of_function, 1)
            if not _is_wording(mutation)
        ]

    def __len__(self) -> int:
        return len(self._numbered)

    def may_hold(self, name: str) -> bool:
        """Whether a fault of this name would be one of this file."""
        return name.rpartition(".")[0] + "." == self._prefix

    def seed(self, indices: Iterable[int]) -> list[Fault]:
        """Rewrite the file so that those of its faults can be switched on."""
        drawn = [self._numbered[index] for index in sorted(indices)]
        made = combine_mutations_to_source(self._module, [one for _, one in drawn], self._classes, self._functions)
        self._file.write_text(made.code, "utf-8")
        return [
            Fault(self._prefix + f"{name.rpartition('_')[0]}_{number}", self._prefix + name, _difference(made, name))
            for name, (number, _) in zip(made.mutant_names, drawn, strict=True)
        ]


def _is_wording(mutation: Mutation) -> bool:
    """Whether a sentence for people alone would differ: a text with a space in it."""
    node = mutation.original_node
    return isinstance(node, libcst.SimpleString) and " " in node.value


def _difference(made: MutatedFile, name: str) -> str:
    lines = made.code.splitlines()

    def body(of: str) -> list[str]:
        span = made.line_span_by_function_name[of]
        return [line.replace(f"def {of}(", "def f(") for line in lines[span.start - 1 : span.end]]

    both = difflib.unified_diff(body(f"{name.rpartition('_')[0]}_orig"), body(name), lineterm="", n=0)
    return "\n".join(line for line in both if not line.startswith(("---", "+++", "@@")))
