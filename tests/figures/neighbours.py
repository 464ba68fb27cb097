"""A picture of items and their nearest neighbours, by name, from a project's similarity map.

`python -m tests.figures.neighbours build/completejourney docs/neighbours.svg` draws six products of
`make run`; `--items` takes others, `--score` another map.
"""

import argparse
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pyarrow.parquet as pq

PRODUCTS = ("826249", "1028816", "1023720", "896369", "1022003", "9487927")
"""Chosen by hand among the often bought: buns, avocado, peaches, peanut butter, soup, detergent."""
NEIGHBOURS = 5
COLUMNS = 3
CARD_WIDTH, CARD_HEIGHT, GAP = 350, 196, 14
"""In pixels, as all lengths here."""

STYLE = """
    .card { fill: #ffffff; stroke: #c3cbd8; stroke-width: 1.2 }
    .head { fill: #14213d }
    .item { font-size: 15px; font-weight: 650; fill: #ffffff }
    .count { font-size: 11.5px; fill: #b9c6e4; text-anchor: end }
    .name { font-size: 13px; fill: #1d2a44 }
    .score { font-size: 12.5px; fill: #5b6b86; text-anchor: end }
    .track { fill: #e9edf4 }
    .bar { fill: #4a7be0 }
"""


@dataclass(frozen=True)
class Card:
    """An item, how often it was clicked, and its neighbours with their scores, nearest first."""

    name: str
    clicks: int
    neighbours: list[tuple[str, float]]


def readable(title: str) -> str:
    """`HOT DOG BUNS, 11 OZ, brand 69` -> `Hot dog buns, 11 oz`."""
    return title.split(", brand ")[0].capitalize()


def cards(project: Path, items: list[str], score: str) -> list[Card]:
    vocabulary = pq.read_table(project / "shards/vocabulary/item", columns=["id", "count", "title"])
    rows = {row["id"]: row for row in vocabulary.to_pylist()}
    names = {item: readable(row["title"] or item) for item, row in rows.items()}
    nearest = [("trigger_id", "in", items), ("rank", "<=", NEIGHBOURS)]
    similar = pq.read_table(project / f"similar/{score}.parquet", filters=nearest)
    in_order = similar.sort_by("rank").to_pylist()
    return [
        Card(
            names[item],
            rows[item]["count"],
            [(names[p["item_id"]], p["score"]) for p in in_order if p["trigger_id"] == item],
        )
        for item in items
    ]


def drawn(card: Card, x: int, y: int) -> str:
    """One card, its upper left corner at (x, y)."""
    right = CARD_WIDTH - 16
    head = f"M0 38V10a10 10 0 0 1 10-10H{CARD_WIDTH - 10}a10 10 0 0 1 10 10V38z"
    parts = [
        f'<rect width="{CARD_WIDTH}" height="{CARD_HEIGHT}" rx="10" class="card"/>',
        f'<path d="{head}" class="head"/>',
        f'<text x="16" y="25" class="item">{escape(card.name)}</text>',
        f'<text x="{right}" y="25" class="count">{card.clicks:,} bought</text>',
    ]
    for place, (name, score) in enumerate(card.neighbours):
        baseline = 61 + 29 * place
        width = round(score * (right - 16))
        parts += [
            f'<text x="16" y="{baseline}" class="name">{escape(name)}</text>',
            f'<text x="{right}" y="{baseline}" class="score">{score:.2f}</text>',
            f'<rect x="16" y="{baseline + 6}" width="{right - 16}" height="3" class="track"/>',
            f'<rect x="16" y="{baseline + 6}" width="{width}" height="3" class="bar"/>',
        ]
    return f'<g transform="translate({x} {y})">\n    ' + "\n    ".join(parts) + "\n  </g>"


def picture(all_cards: list[Card]) -> str:
    """The cards in lines of COLUMNS, as SVG."""
    lines = -(-len(all_cards) // COLUMNS)
    width = COLUMNS * (CARD_WIDTH + GAP) + GAP
    height = lines * (CARD_HEIGHT + GAP) + GAP
    groups = []
    for number, card in enumerate(all_cards):
        line, column = divmod(number, COLUMNS)
        x, y = GAP + column * (CARD_WIDTH + GAP), GAP + line * (CARD_HEIGHT + GAP)
        groups.append(drawn(card, x, y))
    names = escape(", ".join(card.name for card in all_cards))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        " font-family=\"system-ui, 'Segoe UI', 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans',"
        ' sans-serif">\n'
        f"  <title>Nearest neighbours of {names}</title>\n"
        f"  <style>{STYLE}  </style>\n  " + "\n  ".join(groups) + "\n</svg>\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--items", nargs="+", default=list(PRODUCTS), metavar="ID")
    parser.add_argument("--score", default="cosine")
    given = parser.parse_args()
    given.picture.write_text(picture(cards(given.project, given.items, given.score)), "utf-8")
