"""One noun, one idea: a public name of a module stands in no other one."""

import ast
from collections import defaultdict
from collections.abc import Iterator

from tests.test_layers import MODULES

OF_EVERY_COMMAND = {"main", "run", "Options", "JOB"}
"""Names that each command of jobs/ has."""


def public_names(tree: ast.Module) -> Iterator[str]:
    """Classes, functions and constants that a module defines."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name for target in targets for name in ast.walk(target)]
            yield from (name.id for name in names if isinstance(name, ast.Name))


def test_no_public_name_stands_in_two_modules() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        for name in public_names(ast.parse(path.read_text(encoding="utf-8"))):
            if not name.startswith("_") and name not in OF_EVERY_COMMAND:
                homes[name].add(module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}
