"""The rooms of each package and the arrows between them, as the mermaid blocks of docs/design.md.

`python -m tests.figures.rooms` prints them.
"""

from tests.test_layers import PACKAGES, arrows


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


if __name__ == "__main__":
    for name, text in blocks().items():
        print(f"### {name}/\n\n```mermaid\n{text}\n```\n")
