"""One run of a peer in a process of its own: `python -m tests.bench.peer ENGINE CLICKS ARTICLES
OUTPUT RULES`, rules as JSON."""

import importlib
import json
import sys
from pathlib import Path

from tests.bench.rules import Rules

SECONDS = "seconds.json"
"""Under the output: seconds by step."""


def main(engine: str, clicks: str, articles: str, output: str, rules: str) -> None:
    """Only the peer that runs is imported."""
    run = importlib.import_module(f"tests.bench.peer_{engine}").run
    seconds = run(Path(clicks), Path(articles), Path(output), Rules(**json.loads(rules)))
    (Path(output) / SECONDS).write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
