"""What a job does when it is told to end, by Ctrl-C, a scheduler or a launcher."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heard(told: Callable[[int], None]) -> Iterator[None]:
    """Within, SIGINT and SIGTERM call `told` with their number; afterwards they do what they did
    before."""
    before = {
        number: signal.signal(number, lambda given, _: told(given))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
