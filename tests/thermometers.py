"""How the code reads, in figures: `python -m tests.thermometers [FOLDER ...]`.

Prints; enforces nothing.

- Expression nodes a statement: how much one line of thought carries. Imports are no statements.
- Calls and comments in 100 code lines. A code line is neither blank, nor a comment, nor a text.
  The linter's own comments do not count.
- Lines over 100 columns.
- Lines of a function, from `def` to its end: median, 99th percentile, longest.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "trainer", "jobs")
COLUMNS = 100
_LINTERS_OWN = re.compile(r"#\s*(noqa|type:|fmt:)")


@dataclass
class Counts:
    """What is counted of some files."""

    statements: int = 0
    expressions: int = 0
    calls: int = 0
    code_lines: int = 0
    comments: int = 0
    long_lines: list[str] = field(default_factory=list)
    function_lines: list[int] = field(default_factory=list)

    def add(self, path: Path) -> None:
        """Counts a Python file."""
        text = path.read_text(encoding="utf-8")
        lines, tree = text.splitlines(), ast.parse(text)
        docstrings = set(_docstring_lines(tree))
        self._add_nodes(tree)
        self._add_tokens(text)
        for number, line in enumerate(lines, start=1):
            is_code = bool(line.strip()) and not line.lstrip().startswith("#")
            self.code_lines += is_code and number not in docstrings
            if len(line) > COLUMNS:
                self.long_lines.append(f"{path.relative_to(ROOT)}:{number}")

    def _add_nodes(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            self.statements += isinstance(node, ast.stmt) and not _says_nothing(node)
            self.expressions += isinstance(node, ast.expr)
            self.calls += isinstance(node, ast.Call)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.function_lines.append((node.end_lineno or node.lineno) - node.lineno + 1)
        self.expressions -= sum(_is_docstring(node) for node in ast.walk(tree))

    def _add_tokens(self, text: str) -> None:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            is_comment = token.type == tokenize.COMMENT
            self.comments += is_comment and not _LINTERS_OWN.match(token.string)


def _is_docstring(node: ast.AST) -> bool:
    """Whether a statement is a text alone: of a module, class, function, or under a name."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _says_nothing(node: ast.AST) -> bool:
    return _is_docstring(node) or isinstance(node, ast.Import | ast.ImportFrom)


def _docstring_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and _is_docstring(node):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def counts_of(folders: Sequence[str]) -> Counts:
    """The counts of all Python files below some folders of the project."""
    counts = Counts()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            counts.add(path)
    return counts


def report(name: str, counts: Counts) -> str:
    """One line for people."""
    lengths = sorted(counts.function_lines)
    p99 = quantiles(lengths, n=100)[-1] if len(lengths) > 1 else 0
    return (
        f"{name:<24} "
        f"expression nodes a statement {counts.expressions / max(1, counts.statements):.2f}  "
        f"calls in 100 code lines {100 * counts.calls / max(1, counts.code_lines):.0f}  "
        f"comments in 100 code lines {100 * counts.comments / max(1, counts.code_lines):.1f}  "
        f"lines over {COLUMNS} columns {len(counts.long_lines)}  "
        f"functions {median(lengths or [0]):.0f} / {p99:.0f} / {max(lengths, default=0)} lines"
    )


def main(folders: Sequence[str]) -> None:
    """Prints a line a folder, one for all, and where lines are too long."""
    for folder in folders:
        print(report(folder, counts_of([folder])))
    together = counts_of(folders)
    print(report("all", together))
    for where in together.long_lines:
        print(where)


if __name__ == "__main__":
    main(sys.argv[1:] or PACKAGES)
