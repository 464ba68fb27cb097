"""Exit statuses by which a rank tells the launcher how it ended."""

import signal

LOST = 75
"""A rank lost another one (sysexits.h: try again later)."""
STOPPED_STATUS = 128 + signal.SIGINT
"""A rank was told to stop, and saved what it had."""
