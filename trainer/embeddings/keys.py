"""One number for every trained row: the key space that all ranks share.

A view has an *input* and an *output* table (the two vectors v and v' of paper eq. 2). Their rows
stand one table after the other in one key space, so that a step looks up and updates the rows of
all tasks in one exchange. Key k lives on rank k mod size.
"""

from dataclasses import dataclass
from typing import Literal

Side = Literal["input", "output"]
SIDES: tuple[Side, Side] = ("input", "output")


@dataclass(frozen=True)
class Table:
    """Keys [offset, offset + rows)."""

    view: str
    side: Side
    offset: int
    rows: int


@dataclass(frozen=True)
class KeySpace:
    """All tables, in the order of their keys.

    >>> keys = KeySpace.of({"item": 4, "shop": 2})
    >>> [(table.view, table.side, table.offset) for table in keys.tables]
    [('item', 'input', 0), ('item', 'output', 4), ('shop', 'input', 8), ('shop', 'output', 10)]
    >>> keys.name(5)
    'item output 1'
    """

    tables: tuple[Table, ...]

    @classmethod
    def of(cls, nodes: dict[str, int]) -> "KeySpace":
        """Input and output tables for each view and its number of nodes."""
        tables: list[Table] = []
        offset = 0
        for view, rows in nodes.items():
            for side in SIDES:
                tables.append(Table(view, side, offset, rows))
                offset += rows
        return cls(tuple(tables))

    @property
    def size(self) -> int:
        """Rows of all tables together."""
        return self.tables[-1].offset + self.tables[-1].rows

    def name(self, key: int) -> str:
        """What people call a row: its table and its number there."""
        # The tables are in the order of their keys: the first that ends after it.
        table = next(table for table in self.tables if key < table.offset + table.rows)
        row = key - table.offset
        return f"{table.view} {table.side} {row}"

    def table(self, view: str, side: Side) -> Table:
        """The table of one side of a view."""
        return next(table for table in self.tables if (table.view, table.side) == (view, side))


def keys_of_rank(total: int, rank: int, size: int) -> int:
    """How many of `total` keys live on a rank: k = rank, rank + size, ..."""
    return len(range(rank, total, size))
