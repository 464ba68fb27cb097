"""Who may import what: the pipeline knows nothing of training, the trainer nothing of Spark, and Horovod has one door."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "pipeline": {"torch", "horovod", "trainer", "jobs"},
    "trainer": {"pyspark", "delta", "jobs"},
    "jobs": set(),
}
DOOR = Path("trainer/ranks/comm.py")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names that a module imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_no_layer_above_it(package: str) -> None:
    assert modules(package)
    found = {str(path.relative_to(ROOT)): wrong for path in modules(package) if (wrong := packages(path) & FORBIDDEN[package])}
    assert found == {}


def test_horovod_has_one_door() -> None:
    importers = [path.relative_to(ROOT) for package in FORBIDDEN for path in modules(package) if "horovod" in packages(path)]
    assert importers == [DOOR]


def test_what_the_trainer_takes_of_the_pipeline_needs_no_spark() -> None:
    """Also not by way of another module of the pipeline."""
    waiting = {name for path in modules("trainer") for name in imported(path) if name.startswith("pipeline.")}
    seen: set[Path] = set()
    while waiting:
        path = ROOT / Path(*waiting.pop().split(".")[:2]).with_suffix(".py")
        if path not in seen:
            seen.add(path)
            assert not packages(path) & {"pyspark", "delta"}, path
            waiting |= {name for name in imported(path) if name.startswith("pipeline.")}
    assert {path.stem for path in seen} >= {"config", "files", "manifest"}
