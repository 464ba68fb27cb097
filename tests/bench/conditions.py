"""What every benchmark says of where it ran, and how it sums up its rounds."""

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from pipeline.storage.files import code_version


def measured_on(packages: Sequence[str]) -> dict[str, Any]:
    """When, on what, and with which versions."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    hardware = {
        "processor": model,
        "cores": threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
    }
    versions = {"m2grl": code_version(), "python": platform.python_version()} | {
        name: version(name) for name in packages
    }
    return {
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware,
        "versions": versions,
    }


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, median, greatest."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []
