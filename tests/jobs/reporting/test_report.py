"""The job that writes the page at the end of a run."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import report
from jobs.common.evaluate import Evaluate
from jobs.evaluate import main as evaluate
from jobs.report import main
from jobs.reporting import charts, sections
from jobs.reporting.page import _columns
from jobs.reporting.records import ReportError, Training, read_training
from jobs.similar import main as similar
from jobs.similarity.catalogue import read_vocabulary
from jobs.similarity.well_known import well_known
from pipeline.contracts.scores import Estimate
from pipeline.contracts.shards import (
    Manifest,
    RelationShards,
    ShardFile,
    Stream,
    ViewShards,
    Vocabulary,
)
from pipeline.contracts.training import StepRecord
from pipeline.storage.files import sha256
from tests.jobs import evaluation_toy as toy
from tests.jobs.common.test_failures import limited, one_message

TITLES = ["Bread & <b>'butter'</b>", "Milk", "Tea", "Cups", "Figs", None]
CATEGORIES = {0: [1, 0], 1: [1], 2: [0], 4: [1]}
"""Row of an item -> rows of its categories; d (3) and f (5) have none."""
FIGURES = ("hit_rate", "recall", "precision", "f1", "next_all", "next_rare")
STATISTICS = {
    "name": "toy",
    "seed": 7,
    "funnel": {
        "raw rows": 1100,
        "rejected": {"no <item>": 40},
        "dropped": {"duplicate": 60, "stay below minimum": 3},
        "clicks": 997,
        "events with a known stay": 1001,
    },
    "seconds": {"events": 61.0, "shards": 2.5},
    "nodes": {"item": 6, "category": 2},
    "edges": {"item": {"distinct": 123, "weight": 4567}, "category": {"distinct": 2, "weight": 89}},
    "links": {"item_category": {"distinct": 5, "weight": 70}},
    "pairs": {"item": 9876, "category": 543, "item_category": 5},
    "parts": {
        "train": {
            "clicks": 850,
            "users": 31,
            "sessions": 44,
            "first": "2026-01-01 00:00:00",
            "last": "2026-02-01 10:00:00",
        },
        "test": {
            "clicks": 147,
            "users": 9,
            "sessions": 10,
            "first": "2026-02-01 12:34:56",
            "last": "2026-02-02 01:00:00",
        },
    },
}
STEPS = [
    {
        "step": 20 * (n + 1),
        "epoch": (n + 1) / 2,
        "losses": {"item": 5.5 - n, "item_category": None if n else 2.25},
        "sigma2": {"item": 1.125 + n, "item_category": 1.0},
        "weights": {"item": 0.5, "item_category": 0.025},  # the relation's is capped
        "pairs": {"item": 3000, "item_category": 1000},
        "pairs_per_s": 2000.0,
        "phases": {"read": 0.1, "compute": 0.9},
        "wait_exchange": 0.0,
    }
    for n in range(2)
]
END = {
    "step": 40,
    "done": True,
    "length_count_correlation": -0.375,
    "config": {"epochs": 2, "decay": "linear"},
    "seed": 3,
    "ranks": 2,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a toy project with all that the report reads."""
    root = tmp_path_factory.mktemp("whole")
    toy.write_project(root)
    folder = root / "build/toy"
    add_relation(folder / "shards")
    toy.write_embeddings(folder / "embeddings", folder / "shards")
    (folder / "statistics.json").write_text(json.dumps(STATISTICS))
    write_training(folder, [*STEPS, END])
    for score, first in (("conditional", "b"), ("cosine", "c")):
        toy.write_map(
            folder / f"similar/{score}.parquet",
            [("a", "d", 2, 0.5), ("a", first, 1, 0.75), ("b", "a", 1, 0.25)],
            folder / "embeddings",
        )
    write_evaluation(folder, models())
    return root


@pytest.fixture
def project(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to change; returns the configuration file."""
    shutil.copytree(whole / "build", tmp_path / "build")
    config = tmp_path / "toy.toml"
    config.write_text((whole / "toy.toml").read_text().replace(str(whole), str(tmp_path)))
    return config


def add_relation(folder: Path) -> None:
    """A category view and its links, and titles."""
    manifest = Manifest.read(folder)
    items = manifest.views["item"].vocabulary
    table = pq.read_table(folder / items.path)
    pq.write_table(table.set_column(3, "title", pa.array(TITLES, pa.string())), folder / items.path)
    titled = items.model_copy(
        update={
            "bytes": (folder / items.path).stat().st_size,
            "sha256": sha256(folder / items.path),
        }
    )
    path = toy._write(
        folder / "category.parquet", {"row": [0, 1], "id": ["drinks", "food & <more>"]}
    )
    values = Vocabulary(
        path="category.parquet", nodes=2, bytes=path.stat().st_size, sha256=sha256(path), version=0
    )
    centres = pa.array(CATEGORIES, pa.int32())
    path = toy._write(
        folder / "links.parquet",
        {"centre": centres, "contexts": pa.array(CATEGORIES.values(), pa.list_(pa.int32()))},
    )
    file = ShardFile(
        path="links.parquet",
        rows=4,
        tokens=4,
        pairs=5,
        bytes=path.stat().st_size,
        sha256=sha256(path),
    )
    links = Stream(
        encoding="pairs",
        source="links",
        centre_view="item",
        context_view="category",
        window=None,
        files=(file,),
    )
    walked = links.model_copy(update={"source": "walks", "centre_view": "category"})
    views = {
        "item": manifest.views["item"].model_copy(update={"vocabulary": titled}),
        "category": ViewShards(vocabulary=values, streams=(walked,)),
    }
    relations = {"item_category": RelationShards(view="category", links=5, streams=(links,))}
    config = {"sessions": {"idle_gap_seconds": 3600.0}, "split": {"kind": "time", "cut": None}}
    manifest.model_copy(
        update={"views": views, "relations": relations, "config": config, "code_version": "v<9>"}
    ).write(folder)


def figure(value: float | None, half: float | None = None) -> dict[str, float | None]:
    bounds = None if value is None or half is None else (value - half, value + half)
    return {"value": value, "low": bounds and bounds[0], "high": bounds and bounds[1]}


def model(value: float | None, **difference: dict[str, Any]) -> dict[str, Any]:
    shares = {"ceiling": 0.8125, "coverage": 0.4375, "top1_share": 0.0625, "seconds": 1.5}
    return {
        **{name: figure(value, 0.015625) for name in FIGURES},
        **shares,
        "difference": difference,
    }


def differences(value: float, half: float | None) -> dict[str, Any]:
    return {name: figure(value, half) for name in FIGURES}


def models() -> dict[str, Any]:
    """The conditional score is above popularity, level with Item-CF; cosine is below popularity and
    has no interval beside Item-CF."""
    return {
        "M2GRL cosine": model(
            0.125,
            **{"popularity": differences(-0.125, 0.0625), "Item-CF": differences(-0.375, None)},
        ),
        "M2GRL conditional": model(
            0.5, **{"popularity": differences(0.25, 0.125), "Item-CF": differences(0.03125, 0.0625)}
        ),
        "popularity": model(0.25, **{"Item-CF": differences(-0.25, 0.125)}),
        "Item-CF": model(0.46875, popularity=differences(0.25, 0.125)),
    }


def write_evaluation(folder: Path, judged: dict[str, Any]) -> None:
    record = {
        "project": "toy",
        "seed": 7,
        "k": 2,
        "cases": {"users": 1234, "next": 567, "next_rare": 89, "next_never_seen": 21},
        "models": judged,
        "config": Evaluate(k=2, rare_clicks=13, bootstrap=4321).model_dump(mode="json"),
        "inputs": {
            name: sha256(folder / name / "manifest.json")
            for name in ("shards", "embeddings", "heldout")
        },
    }
    (folder / "evaluation.json").write_text(json.dumps(record))


def write_training(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/train.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in lines)
    )


RECORDED = {
    "sequences": {
        "item": {
            **{"without a value": 0, "below minimum_count": 120, "beyond top": 30},
            **{
                "in vocabulary": 700,
                "same node as before": 90,
                "alone in session": 10,
                "in sequences": 600,
            },
        },
        "category": {
            **{"without a value": 160, "below minimum_count": 40, "beyond top": 0},
            **{
                "in vocabulary": 650,
                "same node as before": 300,
                "alone in session": 50,
                "in sequences": 300,
            },
        },
    },
    "histograms": {
        "stay": {
            "unit": "seconds",
            "of": "clicks with a known stay",
            "count": 400,
            "bins": [[2, 3, 100], [29, 30, 60], [30, 31, 200], [3600, 5400, 40]],
            "unusual": [{"value": 30.0, "count": 190, "times": 45.5}],
        },
        "idle gap": {
            "unit": "seconds",
            "of": "clicks after another click of their user",
            "count": 0,
            "bins": [],
            "unusual": [],
        },
        "session length": {
            "unit": "number",
            "of": "sessions",
            "count": 1100,
            "bins": [[1, 2, 1000], [50, 51, 98], [1000, 1200, 2]],
            "unusual": [{"value": 50.0, "count": 98, "times": None}],
        },
        "degree/item": {
            "unit": "number",
            "of": "nodes",
            "count": 40,
            "bins": [[0, 1, 4], [1, 2, 36]],
            "unusual": [],
        },
    },
}


@pytest.fixture(scope="module")
def html(whole: Path) -> str:
    """The page of the whole project."""
    return page(whole / "toy.toml")


def page(config: Path, *arguments: str) -> str:
    main([str(config), *arguments])
    return (config.parent / "build/toy/report.html").read_text(encoding="utf-8")


def text(html: str) -> str:
    """What a reader sees, in one line."""
    body = re.sub(r"(?s)<style>.*?</style>|<svg.*?</svg>", " ", html)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


class Balance(HTMLParser):
    """Fails on a tag that is not closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


def test_tells_data_time_and_settings(html: str) -> None:
    seen = text(html)
    for told in (
        "31 users",
        "6 items with a vector",
        "850 training clicks",
        "44 sessions",
        "10,424 pairs of 3 tasks",
    ):
        assert told in seen
    # 61 s + 2.5 s, two records of 4,000 pairs at 2,000 a second, four models of 1.5 s
    assert "1 min 14 s of work" in seen
    assert re.search(r"events 1 min 01 s\s+shards 2.5 s\s+train 4.0 s\s+evaluate 6.0 s", seen)
    assert (
        "clicks of 2026-01-01 00:00 to 2026-02-01 10:00 UTC, judged on the 147 clicks that "
        "were held out (2026-02-01 12:34 to"
    ) in seen
    assert "Seed 7." in seen
    assert "sessions.idle_gap_seconds 3600.0" in seen
    assert "split.cut" not in seen
    assert "evaluate.rare_clicks 13" in seen
    assert "train.epochs 2" in seen


def test_sections_stand_in_their_order(html: str) -> None:
    found = re.findall(r"<h2>(.*?)</h2>", html)
    assert found == [
        "How good it is",
        "How it was learned",
        "The log",
        "What it was learned from",
        "What lies next to what",
        "How to get it again",
    ]


def test_shows_each_model_with_its_interval(html: str) -> None:
    seen = text(html)
    assert "1,234 users with a new item after the cut and 567 next items" in seen
    assert (
        "89 of these are rare (fewer than 13 clicks before the cut) and 21 were never seen" in seen
    )
    assert "from 4,321 bootstrap samples" in seen
    assert (
        "M2GRL conditional , the score of the similarity map, has a HitRate@2 of 50.00 % "
        "(48.44 to 51.56)"
    ) in seen
    assert f"Item-CF {' '.join(['46.88 45.31 to 48.44'] * 6)}" in seen
    assert "M2GRL cosine 43.75 6.25 81.25" in seen  # coverage, top 1 %, ceiling


def test_says_what_the_paired_intervals_say(html: str) -> None:
    assert (
        '<li class="above">HitRate@2: above popularity, +25.00 points [+12.50, +37.50]</li>' in html
    )
    level = (
        "HitRate@2: not distinguishable from Item-CF (the interval holds zero), +3.12 points "
        "[-3.12, +9.38]"
    )
    assert f'<li class="level">{level}</li>' in html
    assert "Below popularity by HitRate@2: M2GRL cosine." in html
    assert '<td class="below">-12.50<small>[-18.75, -6.25]</small></td>' in html
    assert '<td class="no interval">-37.50<small></small></td>' in html


def test_the_sentences_follow_the_figures(project: Path) -> None:
    judged = models()
    judged["M2GRL conditional"] = model(0.125, popularity=differences(-0.25, 0.125))
    write_evaluation(project.parent / "build/toy", judged)
    html = page(project)
    assert (
        '<li class="below">HitRate@2: below popularity, -25.00 points [-37.50, -12.50]</li>' in html
    )
    assert "Below popularity by HitRate@2: M2GRL cosine, M2GRL conditional." in html
    assert 'class="above">HitRate' not in html


def test_a_score_that_was_not_judged_is_said_to_be_so(project: Path) -> None:
    judged = models()
    del judged["M2GRL conditional"]
    write_evaluation(project.parent / "build/toy", judged)
    assert "M2GRL conditional, the score of the similarity map, was not judged" in text(
        page(project)
    )


@pytest.mark.parametrize(
    ("value", "half", "said"),
    [
        (0.2, 0.1, "above"),
        (-0.2, 0.1, "below"),
        (0.2, 0.3, "level"),
        (0.1, 0.1, "level"),
        (0.0, 0.0, "level"),
        (0.2, None, "no interval"),
        (None, None, "no interval"),
    ],
)
def test_an_interval_that_touches_zero_shows_no_difference(
    value: float | None, half: float | None, said: str
) -> None:
    assert sections.verdict(Estimate.model_validate(figure(value, half))) == said


def test_a_figure_without_cases_is_a_dash(project: Path) -> None:
    judged = models()
    for found in judged.values():
        found["next_rare"] = figure(None)
    write_evaluation(project.parent / "build/toy", judged)
    html = page(project)
    assert "<td>–<small></small></td>" in html  # noqa: RUF001
    assert html.count("<b>Next item HR@2, rare</b>") == 0  # nothing to draw
    assert html.count("<b>Next item HR@2</b>") == 1


def test_the_funnel_names_every_loss(html: str) -> None:
    seen = text(html)
    # 850 clicks of the training part, of which the toy's sequences hold 2 + 3 + 2 + 4
    rows = [
        "raw rows 1,100",
        "rejected: no &lt;item&gt; 40",
        "dropped: duplicate 60",
        "dropped: stay below minimum 3",
        "clicks 997",
    ]
    rows += [
        "held out for the evaluation 147",
        "training clicks 850",
        "alone in its session 839",
        "clicks in item sequences 11",
    ]
    places = [seen.index(row) for row in [*rows, "skip-gram pairs of the item view 9,876"]]
    assert places == sorted(places)
    assert "1,001 events had a known stay" in seen


def test_the_log_is_described_as_far_as_it_was_recorded(project: Path) -> None:
    record = project.parent / "build/toy/statistics.json"
    older = text(page(project))
    assert "Histograms were not recorded" in older
    assert "events 1,060" in older
    funnel = STATISTICS["funnel"] | {
        "flaws": {"unreadable <close>": 3, "app_open out of range": 0},
        "app events": 5,
    }  # type: ignore[operator]
    tables = {
        "shop.items[0]": {"rows": 900, "malformed row": 7, "no item_id": 0},
        "shop.items[1]": {"rows": 8, "no item_id": 0},
    }
    funnel |= {"item tables": tables, "items": {"in item tables": 880, "never clicked": 12}}
    left = {
        "item": {"below minimum_count": 5, "beyond top": 6},
        "category": {"below minimum_count": 0, "beyond top": 0},
    }
    told = {"funnel": funnel, "nodes left out": left, "items whose value changed": {"category": 21}}
    record.write_text(json.dumps({**STATISTICS, **RECORDED, **told}))
    html = page(project)
    seen = text(html)
    rows = [
        "events 1,060",
        "dropped: tells of the app, not of an item 5",
        "dropped: duplicate 60",
        "clicks 997",
        "training clicks 850",
    ]
    rows += [
        "item clicked fewer than minimum_count times 120",
        "item not among the top ones 30",
        "clicks in the vocabulary 700",
        "same item as the click before 90",
        "alone in its session 10",
    ]
    places = [
        seen.index(row)
        for row in [*rows, "clicks in item sequences 600", "skip-gram pairs of the item view 9,876"]
    ]
    assert places == sorted(places)
    assert "category 160 40 0 300 50 300 walks 543" in seen
    assert "3 events lost a field that cannot be: unreadable &lt;close&gt;." in seen
    assert "app_open out of range" not in seen
    of_items = (
        "shop.items[0]: 900 rows, 7 rejected: malformed row. shop.items[1]: 8 rows, none "
        "rejected. 880 items in item tables."
    )
    assert (
        f"Item tables {of_items} 12 items never clicked. 21 items whose category changed; the "
        "latest counts."
    ) in seen
    assert "item 6 11 123 4,567 9,876 category 2 0 2 89 543 item_category 5 70 5 " in seen
    stay = (
        "47.5 % (190 of 400 clicks with a known stay) are exactly 30 s, where values lie "
        "45.5 times as close as beside it."
    )
    length = "8.9 % (98 of 1,100 sessions) are exactly 50, where there is nothing beside it."
    assert (
        "Single values stand out, as people do not make them: a filler, a timeout, or a clock "
        f"that counts in steps does. Stay : {stay}"
    ) in seen
    assert f"Session length : {length}" in seen
    assert "400 clicks with a known stay; half under 31 s; 99 % under 90 min" in seen
    assert "40 nodes; half under 2; 99 % under 2; 4 have no edge" in seen
    assert "0 clicks after another click of their user nothing to draw" in seen
    drawn = re.findall(r'(?s)aria-label="(\S+ ?\w*)[^"]*: histogram of.*?</svg>', html)
    assert drawn == ["Stay", "Session length", "Degree in"]
    stays, lengths, _ = re.findall(
        r'(?s)<svg role="img" aria-label="[^"]*: histogram of.*?</svg>', html
    )
    assert ">30 s</text>" in stays
    assert stays.count("var(--given)") == 2  # the bin of the value that stands out, and its name
    assert lengths.count("var(--given)") == 1


def test_a_log_without_unusual_values_is_said_to_be_so(project: Path) -> None:
    histograms = {name: {**found, "unusual": []} for name, found in RECORDED["histograms"].items()}  # type: ignore[dict-item]
    (project.parent / "build/toy/statistics.json").write_text(
        json.dumps({**STATISTICS, "histograms": histograms})
    )
    assert "No single value stands out in any of them." in text(page(project))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.25, "0.25 s"),
        (30.0, "30 s"),
        (119, "119 s"),
        (120, "2 min"),
        (3600, "60 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
    ],
)
def test_times_are_said_in_a_unit_that_suits(seconds: float, said: str) -> None:
    assert charts.time_text(seconds) == said


def test_table_1_has_views_and_relations(html: str) -> None:
    seen = text(html)
    assert "item 6 123 4,567 9,876 category 2 2 89 543 item_category 5 70 5 " in seen


def test_the_course_of_each_task_is_drawn(html: str) -> None:
    assert re.findall(r'aria-label="(loss[^"]*)"', html) == [
        f"loss and sigma squared of task {task} over the steps"
        for task in ("item", "item_category")
    ]
    seen = text(html)
    assert "40 steps, 1.00 epochs, 2 dimensions, 0.00 million pairs a second" in seen
    assert "rank correlation of -0.38" in seen
    losses = "item loss 4.500 σ² 2.125 weight 0.500 item_category loss – σ² 1.000 weight 0.025"  # noqa: RUF001
    assert losses in seen
    assert "The exported vectors are those of step 1." in seen  # the toy's export says so


def test_hit_rates_measured_while_training_are_told(project: Path) -> None:
    measured = [
        {
            "step": 20 * (n + 1),
            "epoch": n + 1,
            "hit_rate": {"cosine": (3 - n) / 16, "conditional": (n + 1) / 8},
            "k": 2,
            "cases": 1234,
        }
        for n in range(2)
    ]
    write_training(
        project.parent / "build/toy", [STEPS[0], measured[0], STEPS[1], measured[1], END]
    )
    seen = text(page(project))
    assert "HitRate@2 of 1,234 next items of users who are in no other figure" in seen
    assert "cosine 12.50 % at the end, at most 18.75 % after step 20;" in seen
    assert "conditional 25.00 % at the end, at most 25.00 % after step 40." in seen
    assert "users are left out" not in seen


def test_users_left_out_are_told(project: Path) -> None:
    path = project.parent / "build/toy/evaluation.json"
    record = json.loads(path.read_text())
    record["cases"]["left_out"] = 4321
    path.write_text(json.dumps(record))
    assert (
        "4,321 users are left out: training was judged by their next items while it went on."
        in text(page(project))
    )


def test_an_unfinished_training_is_said_to_be_so(project: Path) -> None:
    write_training(project.parent / "build/toy", STEPS)
    assert "The training has not come to its end." in page(project)


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(STEPS[0]) + "\n" + json.dumps(STEPS[1])[:50])
    found = read_training(path)
    assert (len(found.steps), found.end, found.seconds, found.pairs) == (1, None, 2.0, 4000)


def test_a_spoilt_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(STEPS[0]) + "\n{}\n")
    with pytest.raises(
        ReportError,
        match=(
            r"train.jsonl, line 2 is no record of a training \(step: Field required\); run "
            r"jobs/train.py"
        ),
    ):
        read_training(path)


def test_neighbours_stand_side_by_side_by_name(html: str) -> None:
    card = next(
        found
        for found in re.findall(r'(?s)<div class="item">.*?</div></div>\n', html)
        if "<h3>Bread" in found
    )
    assert re.findall(r"<li>(.*?)</li>", card) == [
        "Milk",
        "Cups",
        "Tea",
        "Cups",
    ]  # conditional: b d, cosine: c d, by rank
    assert "food &amp; &lt;more&gt; · 30 clicks" in card
    assert "conditional</b> estimates" in html
    assert "The 3 neighbours below have 3 different names" in html
    assert card.index(">conditional<") < card.index(">cosine<")
    assert html.count("no list") == 8  # c to f, by both scores


def test_one_map_is_shown_where_there_is_one(project: Path) -> None:
    (project.parent / "build/toy/similar/conditional.parquet").unlink()
    html = page(project)
    assert "cosine</b> compares" in html
    assert "conditional</b> estimates" not in html


def test_what_is_said_of_a_score_follows_its_settings() -> None:
    assert "whatever" not in sections.meaning("cosine", Evaluate(cosine_count_exponent=0.1))
    assert "to the power 0.1" in sections.meaning("cosine", Evaluate(cosine_count_exponent=0.1))
    assert "0.5 · log" in sections.meaning("conditional", Evaluate(conditional_exponent=0.5))
    assert "log" not in sections.meaning("conditional", Evaluate(conditional_exponent=0))


def test_items_of_different_categories_come_first(whole: Path) -> None:
    catalogue = read_vocabulary(whole / "build/toy/shards")
    values = {0: "food", 1: "food", 2: "drinks", 4: "food"}
    # food: 0, drinks: 2, none: 3; then the others by clicks
    assert well_known(catalogue, range(6), values) == [0, 2, 3, 1, 4, 5]


def test_the_console_shows_the_items_of_the_page(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The leading items of food, drinks and no category, then the others by clicks."""
    for score in ("conditional", "cosine"):
        similar([str(project), "--evaluate.score", score])
    cells = [
        line.split("│")[1].strip()
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    on_page = re.findall(r'<div class="item"><h3>(.*?)</h3>', page(project))
    shown = [unescape(name) for name in on_page]
    assert shown == ["Bread & <b>'butter'</b>", "Tea", "Cups", "Milk", "Figs", "f"]
    assert [cell for cell in cells if cell] == shown * 2


def test_all_text_is_escaped(project: Path) -> None:
    judged = models()
    judged["<i>given</i> $x$"] = model(0.375)
    write_evaluation(project.parent / "build/toy", judged)
    html = page(project)
    assert "Bread &amp; &lt;b&gt;&#39;butter&#39;&lt;/b&gt;" in html
    assert "v&lt;9&gt;" in html
    for raw in ("<b>'butter'", "<i>given", "<item>", "<more>", "v<9>"):
        assert raw not in html
    assert html.count(">&lt;i&gt;given&lt;/i&gt; $x$</text>") == len(
        FIGURES
    )  # in the charts, and no formula
    parser = Balance()
    parser.feed(html)
    assert parser.open == []


def test_needs_nothing_beside_itself(html: str) -> None:
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|@import|@font-face", html)
    assert set(re.findall(r'(?:src|href)="(.)', html)) == {"#"}  # marks inside a chart
    assert set(re.findall(r"url\((.)", html)) == {"#"}
    assert "default-src 'none'" in html


def test_colours_are_those_of_the_style_sheet(html: str) -> None:
    drawn = " ".join(re.findall(r"(?s)<svg.*?</svg>", html))
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]*)", drawn)) <= {
        "none",
        *(f"var(--{name})" for name in charts.COLOURS),
    }


def test_the_same_inputs_give_the_same_page(whole: Path, html: str) -> None:
    assert page(whole / "toy.toml") == html


def test_the_data_has_a_page_of_its_own_before_anything_is_trained(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project.parent / "build/toy"
    for name in ("model", "embeddings", "similar"):
        shutil.rmtree(folder / name)
    (folder / "evaluation.json").unlink()
    (folder / "report.html").unlink(missing_ok=True)
    main([str(project), "--data"])
    assert "nothing was held out" not in capsys.readouterr().out
    assert not (folder / "report.html").exists()
    html = (folder / "data.html").read_text(encoding="utf-8")
    sections = re.findall("<h2>(.*?)</h2>", html)
    assert sections == ["The log", "What it is learned from", "How to get it again"]
    for told in ("no &lt;item&gt;", "123", "4,567", "850"):
        assert told in html


def test_without_a_held_out_part(project: Path) -> None:
    folder = project.parent / "build/toy"
    parts = {"train": STATISTICS["parts"]["train"]}  # type: ignore[index]
    (folder / "statistics.json").write_text(json.dumps({**STATISTICS, "parts": parts}))
    (folder / "evaluation.json").unlink()
    html = page(project)
    assert "Nothing was held out, so nothing was judged" in html
    assert "How good it is" not in html
    assert "HitRate" not in html


@pytest.mark.parametrize(
    ("path", "job"),
    [
        ("statistics.json", "preprocess"),
        ("shards/manifest.json", "preprocess"),
        ("shards/links.parquet", "preprocess"),
        ("model/train.jsonl", "train"),
        ("embeddings/manifest.json", "export"),
        ("evaluation.json", "evaluate"),
        ("similar", "similar"),
    ],
)
def test_a_missing_input_is_named_with_the_job_that_writes_it(
    project: Path, path: str, job: str
) -> None:
    folder = project.parent / "build/toy"
    (folder / "report.html").write_text("the page of before")
    (folder / path).rename(folder / "elsewhere")
    with pytest.raises(SystemExit) as stopped:
        main([str(project)])
    message = str(stopped.value.code)
    assert message.startswith("report.py: ")
    assert str(folder / path) in message
    assert f"run jobs/{job}.py" in message
    assert (folder / "report.html").read_text() == "the page of before"
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        (
            "statistics.json",
            lambda text: text.replace('"clicks": 997', '"clicks": "many"'),
            "funnel.clicks: Input should be a valid integer",
        ),
        (
            "evaluation.json",
            lambda text: text[:-9],
            "evaluation.json is not what jobs/evaluate.py writes",
        ),
        ("model/train.jsonl", lambda _: "", "train.jsonl holds no record yet"),
        ("similar/cosine.parquet", lambda _: "text", "cosine.parquet cannot be read as a map"),
    ],
)
def test_a_damaged_input_is_named(
    project: Path, path: str, change: Callable[[str], str], message: str
) -> None:
    file = project.parent / "build/toy" / path
    file.write_text(change(file.read_text(encoding="utf-8", errors="replace")))
    with pytest.raises(SystemExit, match=re.escape(message)):
        main([str(project)])


def test_figures_of_other_vectors_are_refused(project: Path) -> None:
    manifest = project.parent / "build/toy/embeddings/manifest.json"
    manifest.write_text(manifest.read_text().replace('"step": 1', '"step": 2'))
    with pytest.raises(
        SystemExit,
        match=(
            r"evaluation.json judges another .*embeddings than lies there now; run "
            r"jobs/evaluate.py again"
        ),
    ):
        main([str(project)])


def test_a_full_disk_leaves_the_page_of_before(project: Path) -> None:
    """The inputs are read, the page of more than 1,000 bytes is not written."""
    page_of_before = project.parent / "build/toy/report.html"
    page_of_before.write_text("the page of before")
    message = one_message(limited(report.__file__, 1000, str(project)), "report.py")
    assert f"File too large: {page_of_before}; make room there" in message
    assert page_of_before.read_text() == "the page of before"


def test_a_map_of_other_vectors_is_refused(project: Path) -> None:
    """Also one of unknown vectors, and also where nothing is held out, so that no evaluation
    tells."""
    folder = project.parent / "build/toy"
    parts = {"train": STATISTICS["parts"]["train"]}  # type: ignore[index]
    (folder / "statistics.json").write_text(json.dumps({**STATISTICS, "parts": parts}))
    manifest = folder / "embeddings/manifest.json"
    manifest.write_text(manifest.read_text().replace('"step": 1', '"step": 2'))
    stale = (
        r"conditional.parquet is not a map of the vectors that .* holds now; run "
        r"jobs/similar.py again, with --evaluate.score conditional"
    )
    with pytest.raises(SystemExit, match=stale):
        main([str(project)])
    toy.write_map(folder / "similar/conditional.parquet", [("a", "b", 1, 1.0)])
    with pytest.raises(SystemExit, match=stale):
        main([str(project)])
    for score in ("conditional", "cosine"):
        similar([str(project), "--evaluate.score", score])
    assert "What lies next to what" in page(project)


@pytest.mark.parametrize("held_out", [True, False])
def test_vectors_of_other_shards_are_refused(project: Path, held_out: bool) -> None:
    folder = project.parent / "build/toy"
    if not held_out:
        (folder / "statistics.json").write_text(
            json.dumps({**STATISTICS, "parts": {"train": STATISTICS["parts"]["train"]}})
        )  # type: ignore[index]
    manifest = folder / "shards/manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(
        SystemExit,
        match=(
            r"embeddings holds vectors that were trained on other shards than .*shards holds "
            r"now; run jobs/train"
        ),
    ):
        main([str(project)])


def test_figures_of_a_protocol_without_cases_are_dashes(project: Path) -> None:
    judged = models()
    for found in judged.values():
        found |= {"next_all": figure(None), "next_rare": figure(None), "ceiling": None}
    write_evaluation(project.parent / "build/toy", judged)
    assert "M2GRL cosine 43.75 6.25 –" in text(page(project))  # noqa: RUF001


def test_reads_what_the_jobs_before_it_write(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for job in (similar, evaluate):
        job([str(project)])
    capsys.readouterr()
    html = page(project, "--evaluate.score", "conditional")
    record = json.loads((project.parent / "build/toy/evaluation.json").read_text())
    for name, found in record["models"].items():
        assert f"{name}</th><td>{100 * found['hit_rate']['value']:.2f}<small>" in html
    seen = capsys.readouterr().out
    assert "31 users, 6 items, 850 training clicks, 10,424 pairs" in seen
    assert re.search(r"events 1 min 01 s, shards 2.5 s, train 4.0 s, evaluate \d", seen)
    assert re.search(r"│ popularity +│ 100.00 \(100.00 to 100.00\) │", seen)
    assert re.search(r"│ Item-CF +│ +66.67 ", seen)
    assert "M2GRL conditional, HitRate@2: " in seen
    assert seen.rstrip().endswith("report.html")


@pytest.mark.parametrize("lines", [1, 300])
def test_a_course_is_drawn_whatever_its_length(lines: int) -> None:
    drawn = charts.course(
        list(range(1, lines + 1)), {"loss": [1.0] * lines, "σ²": [None] * lines}, "l"
    )
    assert drawn.startswith('<svg role="img" aria-label="l" viewBox="0 0 ')
    assert ">steps</text>" in drawn


@pytest.mark.parametrize(("tasks", "columns"), [(1, 1), (5, 5), (6, 3), (7, 4), (8, 4)])
def test_many_tasks_take_two_rows(tasks: int, columns: int) -> None:
    assert _columns(tasks) == columns


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599.7, "1 h 00 min"),
        (7384, "2 h 03 min"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert sections.duration(seconds) == said


def test_training_time_is_that_of_its_records() -> None:
    steps = [StepRecord.model_validate(step) for step in STEPS] + [
        StepRecord.model_validate({**STEPS[0], "pairs_per_s": 0.0})
    ]
    assert Training(steps, None).seconds == 4.0


def test_needs_neither_spark_nor_torch() -> None:
    code = "import sys, jobs.report; print({'torch', 'pyspark', 'horovod'} & set(sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "set()\n"
    )
