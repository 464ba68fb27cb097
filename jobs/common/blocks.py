"""Long work in blocks, with a bar on the console that tells how long it will take."""

from collections.abc import Iterator

from rich.console import Console
from rich.progress import track


def in_blocks(total: int, size: int, what: str) -> Iterator[slice]:
    """The slices [0, size), [size, 2 size), ... of `total` rows. The bar goes to standard error,
    and only where that is a terminal."""
    console = Console(stderr=True)
    starts = track(
        range(0, total, size),
        what,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    for first in starts:
        yield slice(first, min(first + size, total))
