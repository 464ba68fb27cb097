"""Who may import what, told by folder.

A room is a folder of the packages, or a module beside folders. Data goes one way through them, so
that no circle of rooms stands.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "trainer", "jobs")
CONTRACT_ROOMS = {"pipeline.config", "pipeline.storage", "pipeline.contracts"}
"""Of pipeline/, all that others import."""
SPARK_ROOMS = {"jobs.preprocess", "jobs.maintain", "jobs.preprocessing"}
"""Of jobs/, those that start Spark: they import the rest of pipeline/ too."""
SPARK = {"pyspark", "delta", "py4j"}
FORBIDDEN = {
    "pipeline": {"torch", "horovod", "trainer", "jobs"},
    "trainer": {*SPARK, "jobs"},
    "jobs": set(),
}
HOROVODS_DOOR = Path("trainer/ranks/comm.py")


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


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for package in PACKAGES for path in modules(package)}


def room(module: str) -> str:
    """The folder of a package that a module lies in, however deep; the module itself where it lies
    beside the folders."""
    return ".".join(module.split(".")[:2])


def target(name: str) -> str | None:
    """The module that an imported name is, or is of; none for one of another project."""
    outer = name.rpartition(".")[0]
    return next((module for module in (name, outer) if module in MODULES), None)


def arrows() -> dict[str, set[str]]:
    """Room -> the other rooms that it imports."""
    found: dict[str, set[str]] = {room(module): set() for module in MODULES}
    for module, path in MODULES.items():
        for name in imported(path):
            to = target(name)
            if to is not None and to not in PACKAGES:
                found[room(module)].add(room(to))
    return {one: others - {one} for one, others in found.items() if one not in PACKAGES}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_no_layer_above_it(package: str) -> None:
    assert modules(package)
    wrong = {dotted(path): packages(path) & FORBIDDEN[package] for path in modules(package)}
    assert {module: names for module, names in wrong.items() if names} == {}


def test_horovod_has_one_door() -> None:
    importers = [path.relative_to(ROOT) for path in MODULES.values() if "horovod" in packages(path)]
    assert importers == [HOROVODS_DOOR]


def test_of_the_pipeline_others_import_its_contracts_alone() -> None:
    others = {
        one: {to for to in rooms if to.startswith("pipeline.")} - CONTRACT_ROOMS
        for one, rooms in arrows().items()
        if not one.startswith("pipeline.") and one not in SPARK_ROOMS
    }
    assert {one: rooms for one, rooms in others.items() if rooms} == {}


def test_spark_stands_in_none_of_the_contracts() -> None:
    """Nor in a room that they import."""
    all_arrows, waiting, reached = arrows(), set(CONTRACT_ROOMS), set[str]()
    while waiting:
        one = waiting.pop()
        reached.add(one)
        waiting |= all_arrows[one] - reached
    assert reached > CONTRACT_ROOMS
    with_spark = {m for m, path in MODULES.items() if room(m) in reached and packages(path) & SPARK}
    assert with_spark == set()


def test_only_what_starts_spark_imports_it() -> None:
    importers = {room(m) for m, path in MODULES.items() if packages(path) & SPARK}
    assert {one for one in importers if not one.startswith("pipeline.")} <= SPARK_ROOMS


def test_rooms_stand_in_no_circle() -> None:
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as circle:
        pytest.fail(f"rooms import each other in a circle: {' -> '.join(circle.args[1])}")


def test_only_commands_stand_at_the_top_of_jobs() -> None:
    for path in (ROOT / "jobs").glob("*.py"):
        if path.name != "__init__.py":
            assert 'if __name__ == "__main__":\n    main()' in path.read_text(encoding="utf-8"), (
                path
            )
