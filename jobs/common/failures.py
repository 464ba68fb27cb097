"""How a job ends that cannot be done: with one message and exit status 1."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from pipeline.storage.locations import Location

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a disk, a quota or a limit that holds no more."""


@contextmanager
def failing_clearly(
    job: str,
    output: Location,
    *known: type[Exception],
    again: str = "run it again",
    explained: Callable[[Exception], str | None] = lambda _: None,
) -> Iterator[None]:
    """Ends the process with status 1 and `job: what: where; what to do` on standard error, in place
    of a traceback.

    For the errors of `known`, whose messages say all this already, and for files that cannot be
    read or written. `output` is what the job writes: the place of an error that names none. `again`
    says how to start anew, `explained` what went wrong for errors of what the job runs on; None: it
    is a bug.
    """
    try:
        yield
    except known as error:
        sys.exit(f"{job}: {error}")
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else str(error)
        sys.exit(f"{job}: {what}: {error.filename or output}; {_remedy(error)} and {again}")
    except pa.ArrowException as error:
        sys.exit(f"{job}: {error}: {output}; mend the cause and {again}")
    except Exception as error:
        told = explained(error)
        if told is None:
            raise
        sys.exit(f"{job}: {told}; mend the cause and {again}")


def _remedy(error: OSError) -> str:
    return (
        "make room there, or name another folder by `output`,"
        if error.errno in FULL
        else "mend the cause"
    )
