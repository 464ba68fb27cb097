"""The rooms of each package and the arrows between them, as docs/design.md shows them.

`python -m tests.figures.rooms` prints the mermaid blocks and the table of rooms, and
`python -m tests.figures.rooms docs/design.md` puts them in the place of those that stand there.
"""

import ast
import re
import sys
from pathlib import Path

from tests.test_layers import MODULES, PACKAGES, arrows


def inside(package: str) -> dict[str, set[str]]:
    """Room of the package -> the others of it that it imports, without the package's prefix."""
    prefix = f"{package}."
    return {
        room.removeprefix(prefix): {
            to.removeprefix(prefix) for to in rooms if to.startswith(prefix)
        }
        for room, rooms in arrows().items()
        if room.startswith(prefix)
    }


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Rooms that a way of one arrow or more leads to."""
    reached, waiting = set[str](), [start]
    while waiting:
        new = graph[waiting.pop()] - reached
        reached |= new
        waiting += sorted(new)
    return reached


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without each arrow that a longer way stands for. The graph has no circle."""
    return {
        room: {to for to in rooms if not any(to in reachable(graph, via) for via in rooms - {to})}
        for room, rooms in graph.items()
    }


def block(package: str) -> str:
    """The flowchart of one package; a room without arrows stands alone."""
    graph = reduced(inside(package))
    ends = {to for rooms in graph.values() for to in rooms}
    lines = [f"{room} --> {to}" for room, rooms in sorted(graph.items()) for to in sorted(rooms)]
    lines += sorted(room for room, rooms in graph.items() if not rooms and room not in ends)
    return "\n".join(["flowchart LR", *(f"    {line}" for line in lines)])


def blocks() -> dict[str, str]:
    """Package -> the text inside its mermaid fence."""
    return {package: block(package) for package in PACKAGES}


def table() -> str:
    """A row for each room: the first paragraph of its docstring."""
    rows = []
    for room in sorted(arrows(), key=lambda room: (PACKAGES.index(room.split(".")[0]), room)):
        path = MODULES[room]
        name = room.replace(".", "/") + ("/" if path.name == "__init__.py" else ".py")
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        sentence = " ".join(docstring.split("\n\n")[0].split())
        rows.append(f"| `{name}` | {sentence} |\n")
    return "".join(rows)


def renewed(page: str) -> str:
    """The page with the blocks and the rows of today."""
    for package, text in blocks().items():
        before, heading, after = page.partition(f"### {package}/\n\n```mermaid\n")
        page = before + heading + text + after[after.index("\n```") :]
    rows = re.compile(r"(\| room \| what it holds \|\n\|---\|---\|\n)(?:\|.*\n)*")
    return rows.sub(lambda match: match[1] + table(), page)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        page = Path(sys.argv[1])
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        for name, text in blocks().items():
            print(f"### {name}/\n\n```mermaid\n{text}\n```\n")
        print(table(), end="")
