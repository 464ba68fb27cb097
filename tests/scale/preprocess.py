"""The pipeline as a user runs it: `spark-submit jobs/preprocess.py`."""

import json
import subprocess
from pathlib import Path
from typing import Any

JOB = Path("jobs/preprocess.py").absolute()


def preprocess(configs: list[Path], output: Path, *options: str) -> dict[str, Any]:
    """statistics.json of the one project that comes to lie in `output`; Spark's own files go to where the last config is."""
    command = ["spark-submit", str(JOB), *(str(config.absolute()) for config in configs), "--output", str(output), *options]
    subprocess.run(command, cwd=configs[-1].parent, check=True)
    (statistics,) = output.glob("*/statistics.json")
    found: dict[str, Any] = json.loads(statistics.read_text(encoding="utf-8"))
    return found
