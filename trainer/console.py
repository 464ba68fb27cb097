"""What a rank says to people, line by line."""

import sys


def print_line(line: str) -> None:
    """A line on the console, at once (horovodrun shows the ranks' output by line)."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def so_many(ranks: int) -> str:
    """For people."""
    return f"{ranks} rank{'' if ranks == 1 else 's'}"
