"""Small held-out folders for the trainer's tests."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contracts import heldout

Sessions = list[tuple[str, list[str]]]
"""(user, items) of each session, in order."""


def write_heldout(folder: Path, sessions: Sessions, row_group: int = 7) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    texts = pa.list_(pa.string())
    users = list(dict.fromkeys(user for user, _ in sessions))
    tables = {
        heldout.HISTORY: {"user_id": users, "item_ids": pa.array([[] for _ in users], texts)},
        heldout.SESSIONS: {
            "user_id": [user for user, _ in sessions],
            "session_id": [f"s{number}" for number in range(len(sessions))],
            "item_ids": pa.array([items for _, items in sessions], texts),
        },
        heldout.COUNTS: {"item_id": pa.array([], pa.string()), "clicks": pa.array([], pa.int64())},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / name, row_group_size=row_group)
    heldout.write_manifest(folder)


def random_sessions(items: list[str], users: int = 60, seed: int = 4) -> Sessions:
    """Two sessions a user, of up to seven clicks."""
    random = np.random.default_rng(seed)
    return [
        (f"u{number % users}", random.choice(items, random.integers(1, 8)).tolist())
        for number in range(2 * users)
    ]
