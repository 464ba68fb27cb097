"""The pipeline as a user runs it: `spark-submit jobs/preprocess.py`."""

import json
import subprocess
from pathlib import Path
from typing import Any


def preprocess(configs: list[Path], output: Path, *options: str) -> dict[str, Any]:
    """statistics.json of the one project that comes to lie in `output`."""
    command = [
        "spark-submit",
        "jobs/preprocess.py",
        *map(str, configs),
        "--output",
        str(output),
        *options,
    ]
    subprocess.run(command, check=True)
    (statistics,) = output.glob("*/statistics.json")
    found: dict[str, Any] = json.loads(statistics.read_text(encoding="utf-8"))
    return found
