"""A small shop's log and project: every kind of table, stream and Python task that the pipeline
has."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.contracts.heldout import HeldOut
from pipeline.contracts.shards import Manifest
from pipeline.shards.counting import Contents
from pipeline.storage.locations import Location

USERS, ITEMS, BEGIN = 300, 60, 1_700_000_000
CONFIG = """
name = "shop"
[source]
path = "{folder}/log"
format = "csv"
time.unit = "seconds"
[source.columns]
user_id = "user"
item_id = "item"
timestamp = "time"
[[source.items]]
path = "{folder}/items.csv"
format = "csv"
item_id = "item"
title = "title"
attributes = {{ category = "category", shop = "shop" }}
[views.item]
[views.category]
attribute = "category"
sequences = "walks"
walks = {{ walks_per_node = 20, length = 10, q = 0.5 }}
[views.shop]
attribute = "shop"
sequences = "edges"
[relations.item_category]
view = "category"
[relations.item_shop]
view = "shop"
[split]
kind = "last_items"
[shards]
files = 3
[train]
epochs = 1
"""


def files() -> dict[str, str]:
    """Name -> text of the log's files and of the table of items."""
    draw = random.Random(5)
    lines = [
        f"u{user},i{int(draw.paretovariate(0.7)) % ITEMS},{BEGIN + user + 60 * step}"
        for user in range(USERS)
        for step in range(12)
    ]
    items = [f"i{item},Item {item},c{item % 7},s{item % 11}" for item in range(ITEMS)]
    written = {f"log/{part}.csv": _csv("user,item,time", lines[part::2]) for part in range(2)}
    return written | {"items.csv": _csv("item,title,category,shop", items)}


def _csv(header: str, rows: Iterable[str]) -> str:
    return "\n".join([header, *rows]) + "\n"


def write_project(folder: Path, source: Location) -> Path:
    """The configuration of the project whose files lie in `source`."""
    config = folder / "shop.toml"
    config.write_text(CONFIG.format(folder=source), encoding="utf-8")
    return config


def held(manifest: Manifest) -> dict[str, list[Contents]]:
    """What each stream and vocabulary holds, file by file. Spark's own names of the files differ
    from run to run."""
    found = {
        name: [_contents(file) for stream in streams for file in stream.files]
        for name, streams in manifest.streams.items()
    }
    views = {f"vocabulary of {name}": view.vocabulary for name, view in manifest.views.items()}
    return found | {
        name: [Contents(file.nodes, 0, 0, file.bytes, file.sha256)] for name, file in views.items()
    }


def _contents(file: Any) -> Contents:
    return Contents(file.rows, file.tokens, file.pairs, file.bytes, file.sha256)


def held_out(folder: Location) -> HeldOut:
    """The manifest of the held-out part."""
    return HeldOut.model_validate_json((folder / "manifest.json").read_text(encoding="utf-8"))
