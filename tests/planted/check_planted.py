"""From a made-up log whose truth is known to similar items, by the commands that a user types.

The true neighbours must be recovered, and on rare items, whose category and shop say more than
their clicks, the aligned model must beat the same model without inter-view tasks. It catches the
mistakes of sign and mask that nothing smaller does.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.planted.log import Item, items, write_log

pytestmark = pytest.mark.timeout(3600)
CONFIG = """
name = "{name}"
output = "{output}"
seed = 5

[source]
path = "{log}"
format = "csv"
time.unit = "seconds"
attributes = {{ category = "category", shop = "shop" }}

[source.columns]
user_id = "user_id"
item_id = "item_id"
timestamp = "timestamp"
stay_seconds = "stay_seconds"

[clean]
stay = "given"

[views.item]
[views.category]
attribute = "category"
[views.shop]
attribute = "shop"

[relations.item_category]
view = "category"
[relations.item_shop]
view = "shop"

[train]
epochs = 30
dimension = 32
batch_pairs = 4096
lanes = 4
learning_rate = 0.3
dense_learning_rate = 0.03
"""
GIVEN = (
    'weighting = "given"\nweights = {{ item = 1.0, category = 1.0, shop = 1.0, item_category '
    "= {0}, item_shop = {0} }}\n"
)
MODELS = {"aligned": GIVEN.format(1.0), "apart": GIVEN.format(0.0), "default": ""}
"""Name of a model -> what its configuration adds. The default learns its weights and caps the
alignment's."""
NEIGHBOURS = 9
"""A theme has ten items."""


def run(*command: str) -> str:
    """Runs a command of the user's; its output where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Share of true neighbours among the nearest, by model and kind of item."""
    folder = tmp_path_factory.mktemp("planted")
    write_log(folder / "log.csv", seed=7)
    config = folder / "planted.toml"
    text = CONFIG.format(name="planted", output=folder, log=folder / "log.csv")
    config.write_text(text, encoding="utf-8")
    run("spark-submit", "jobs/preprocess.py", str(config))
    found = {}
    for model, settings in MODELS.items():
        config = folder / f"{model}.toml"
        config.write_text(text + settings, encoding="utf-8")
        run("horovodrun", "-np", "2", "--gloo", sys.executable, "jobs/train.py", str(config))
        run(sys.executable, "jobs/export.py", str(config))
        found[model] = recall(folder / "planted" / "embeddings" / "item.parquet")
    return found


def recall(path: Path) -> dict[str, float]:
    """Mean share of an item's theme among its nearest items by cosine, of common and of rare
    items."""
    table = pq.read_table(path)
    vectors = np.stack(table["vector"].to_numpy())
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = {item.name: item for item in items()}
    known = [truth[name] for name in table["id"].to_pylist()]
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1)[:, :NEIGHBOURS]
    shares = np.array(
        [
            _share(item, [known[i] for i in found])
            for item, found in zip(known, nearest, strict=True)
        ]
    )
    rare = np.array([item.rare for item in known])
    return {"common": float(shares[~rare].mean()), "rare": float(shares[rare].mean())}


def _share(item: Item, neighbours: list[Item]) -> float:
    return sum(other.theme == item.theme for other in neighbours) / NEIGHBOURS


def test_the_truth_is_recovered(recovered: dict[str, dict[str, float]]) -> None:
    # By chance 9 of 599 items are true neighbours.
    assert recovered["aligned"]["common"] > 0.6
    assert recovered["aligned"]["rare"] > 0.4


def test_alignment_helps_rare_items(recovered: dict[str, dict[str, float]]) -> None:
    assert recovered["aligned"]["rare"] > recovered["apart"]["rare"] + 0.1


def test_the_default_weights_do_rare_items_good_too(recovered: dict[str, dict[str, float]]) -> None:
    assert recovered["default"]["rare"] > recovered["apart"]["rare"] + 0.03


def test_alignment_does_common_items_no_harm(recovered: dict[str, dict[str, float]]) -> None:
    assert recovered["aligned"]["common"] > recovered["apart"]["common"] - 0.05
