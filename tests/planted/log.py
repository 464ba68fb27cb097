"""A made-up shop whose truth is known: users have tastes, and items of one taste share category and
shop.

A *theme* is one category at one shop. Sessions stay within a user's themes, but for accidental
clicks on any item, which the user leaves within two seconds. Some items of each theme are rare:
their few clicks say little about them, their category and shop say all.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CATEGORIES, SHOPS = 10, 6
COMMON, RARE = 4, 6
"""Items of a theme."""
RARE_WEIGHT = 0.04
"""How much less often a rare item is clicked than a common one."""
USERS, SESSIONS, CLICKS = 400, 4, 7
"""Users, sessions of a user, clicks of a session."""
ACCIDENTS = 0.25
"""Share of clicks that are accidental."""
STRAY = 0.1
"""Share of honest clicks outside the session's theme."""


@dataclass(frozen=True)
class Item:
    """What is true of an item."""

    name: str
    category: int
    shop: int
    rare: bool

    @property
    def theme(self) -> tuple[int, int]:
        """Items are true neighbours when they share this."""
        return self.category, self.shop


def items() -> list[Item]:
    """The shop's whole catalogue."""
    return [
        Item(f"c{category}s{shop}n{number}", category, shop, number >= COMMON)
        for category in range(CATEGORIES)
        for shop in range(SHOPS)
        for number in range(COMMON + RARE)
    ]


def write_log(path: Path, seed: int) -> None:
    """Writes the click log as CSV: user_id, item_id, timestamp (Unix seconds), stay_seconds,
    category, shop."""
    random = np.random.default_rng(seed)
    catalogue = items()
    themes: dict[tuple[int, int], list[Item]] = {}
    for item in catalogue:
        themes.setdefault(item.theme, []).append(item)
    weights = np.array([1.0] * COMMON + [RARE_WEIGHT] * RARE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "timestamp", "stay_seconds", "category", "shop"])
        names = list(themes)
        for user in range(USERS):
            tastes = random.choice(len(names), 2, replace=False)
            for session in range(SESSIONS):
                theme = names[random.choice(tastes)]
                for click in range(CLICKS):
                    accident = random.random() < ACCIDENTS
                    anywhere = accident or random.random() < STRAY
                    item = (
                        random.choice(catalogue)
                        if anywhere
                        else themes[theme][random.choice(len(weights), p=weights / weights.sum())]
                    )
                    stay = random.uniform(0.1, 1.9) if accident else random.uniform(2, 60)
                    time = 1_600_000_000 + session * 86_400 + click * 90
                    writer.writerow(
                        [
                            f"u{user}",
                            item.name,
                            time,
                            f"{stay:.3f}",
                            f"c{item.category}",
                            f"s{item.shop}",
                        ]
                    )
