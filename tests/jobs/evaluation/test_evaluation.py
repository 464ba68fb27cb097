"""Both protocols, the figures, their intervals and the job: the toy worked out by hand, slow twins,
and messages to the user."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from jobs.common.evaluate import Evaluate
from jobs.evaluate import main
from jobs.evaluation.bootstrap import Tally, bootstrap_sums, judge_all
from jobs.evaluation.cases import next_cases, user_cases
from jobs.evaluation.map_recommender import MapRecommender, contributions
from jobs.evaluation.metrics.ceiling import Ceiling
from jobs.evaluation.outcome import next_hits, outcome_of, user_hits
from jobs.similar import main as similar
from jobs.similarity.maps import NONE, ItemMap, lists_by_trigger
from pipeline.contracts import heldout
from pipeline.storage.files import code_version
from tests.jobs import evaluation_toy as toy
from tests.jobs.similarity.test_maps import catalogue_of

FIGURES = (
    "hit_rate",
    "recall",
    "precision",
    "f1",
    "next_all",
    "next_rare",
    "ceiling",
    "coverage",
    "top1_share",
)


def judged(config: Path, *arguments: str) -> dict[str, Any]:
    main([str(config), *arguments])
    record: dict[str, Any] = json.loads((config.parent / "build/toy/evaluation.json").read_text())
    return record


def figures(model: dict[str, Any]) -> dict[str, float]:
    return {
        name: model[name]["value"] if isinstance(model[name], dict) else model[name]
        for name in FIGURES
    }


def fails(capsys: pytest.CaptureFixture[str], config: Path, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(config), *arguments])
    assert isinstance(stopped.value.code, str), capsys.readouterr().err
    return stopped.value.code


# The toy by hand, K = 2


def test_cases_of_the_toy(tmp_path: Path) -> None:
    record = judged(toy.write_project(tmp_path))
    assert record["code_version"] == code_version()
    assert record["cases"] == {
        "users": 3,
        "next": 5,
        "next_rare": 2,
        "next_never_seen": 1,
        "left_out": 0,
    }


def test_popularity_of_the_toy(tmp_path: Path) -> None:
    # By clicks: a 30, b 20, c 18, d 5, g 3, e 2. u1 has a and b: c d, both hit, of three. u2 has c:
    # a b, a hit, of three. u3 has nothing, and still gets a b: both hit, of two. Next, the two most
    # clicked but the trigger: c-d in a b no; b-e in a c no; d-a in a b yes; a-h in b c no; a-b in b
    # c yes. The 1 % of six items is one, a: two of the six recommendations. h alone cannot be hit.
    precision, recall = (1 + 0.5 + 1) / 3, (2 / 3 + 1 / 3 + 1) / 3
    assert figures(judged(toy.write_project(tmp_path))["models"]["popularity"]) == pytest.approx(
        {
            "hit_rate": 1.0,
            "recall": recall,
            "precision": precision,
            "f1": 2 * precision * recall / (precision + recall),
            "next_all": 2 / 5,
            "next_rare": 0.0,
            "ceiling": 4 / 5,
            "coverage": 4 / 6,
            "top1_share": 2 / 6,
        }
    )


def test_item_cf_of_the_toy(tmp_path: Path) -> None:
    # Weights are those of test_item_cf_by_hand, divided by n(b)^0.25: a: b c; b: a c; c: a .41, d
    # .36, b .24; d: c; e and f: none. u1 from a and b: c alone is new; one hit of three. u2 from c:
    # a d; two hits of three. u3 has no trigger: a miss. Next: c-d yes; b-e no; d-a no; a-h no; a-b
    # yes. e is in no list and h unknown: three of five could be hit.
    assert figures(judged(toy.write_project(tmp_path))["models"]["Item-CF"]) == pytest.approx(
        {
            "hit_rate": 2 / 3,
            "recall": (1 / 3 + 2 / 3 + 0) / 3,
            "precision": (1 / 2 + 2 / 2 + 0) / 3,
            "f1": 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3),
            "next_all": 2 / 5,
            "next_rare": 1 / 2,
            "ceiling": 3 / 5,
            "coverage": 3 / 6,
            "top1_share": 1 / 3,
        }
    )


def test_a_given_map_of_the_toy(tmp_path: Path) -> None:
    # u1: from a: d 1, e 3; from b: d 2.5: d 3.5, e 3, both hit. u2: from c: x, y (known to nobody)
    # take both places. Next: c-d: in x y no; b-e: no, b has d alone; d-a: d has no list; a-h: in e
    # d no; a-b no. d, e, h, x, y are listed: c-d and b-e could.
    rows = [
        ("a", "e", 1, 3.0),
        ("a", "d", 2, 1.0),
        ("b", "d", 1, 2.5),
        ("c", "x", 1, 9.0),
        ("c", "y", 2, 8.0),
        ("c", "d", 3, 7.0),
    ]
    path = toy.write_map(tmp_path / "map.parquet", rows)
    record = judged(toy.write_project(tmp_path), "--map", f"mine={path}")
    found = figures(record["models"]["mine"])
    assert found["hit_rate"] == pytest.approx(1 / 3)
    assert found["recall"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert [found[name] for name in ("next_all", "next_rare", "ceiling")] == pytest.approx(
        [0, 0, 2 / 5]
    )
    assert [found[name] for name in ("coverage", "top1_share")] == pytest.approx(
        [2 / 6, 0]
    )  # d and e; x and y are outside the vocabulary
    assert record["given"] == {"mine": str(path)}


@pytest.mark.parametrize("score", ["cosine", "conditional", "inner"])
def test_a_written_map_is_judged_as_the_vectors_it_came_from(tmp_path: Path, score: str) -> None:
    config = toy.write_project(tmp_path)
    similar([str(config), "--evaluate.score", score])
    models = judged(config, "--map", f"written={tmp_path}/build/toy/similar/{score}.parquet")[
        "models"
    ]
    assert figures(models["written"]) == figures(models[f"M2GRL {score}"])


def test_given_vectors_are_judged_by_the_scores_they_allow(tmp_path: Path) -> None:
    config = toy.write_project(tmp_path)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "item.parquet").write_bytes(
        (tmp_path / "build/toy/embeddings/item.parquet").read_bytes()
    )
    models = judged(config, "--vectors", f"other={folder}")["models"]
    assert set(models) == {
        "M2GRL cosine",
        "M2GRL conditional",
        "M2GRL inner",
        "popularity",
        "Item-CF",
        "other cosine",
        "other inner",
    }
    for score in ("cosine", "inner"):
        assert figures(models[f"other {score}"]) == figures(models[f"M2GRL {score}"])


def test_the_same_seed_gives_the_same_record(tmp_path: Path) -> None:
    config = toy.write_project(tmp_path)
    first, second = judged(config), judged(config)
    for record in (first, second):
        for model in record["models"].values():
            del model["seconds"]
    assert first == second


def test_no_intervals_without_a_bootstrap(tmp_path: Path) -> None:
    model = judged(toy.write_project(tmp_path), "--evaluate.bootstrap", "0")["models"]["Item-CF"]
    assert model["hit_rate"] == {"value": pytest.approx(2 / 3), "low": None, "high": None}


# Cases


def clicks(pairs: list[tuple[int, int]], first: str) -> pd.DataFrame:
    return pd.DataFrame({first: [a for a, _ in pairs], "item": [b for _, b in pairs]})


def test_triggers_are_the_last_distinct_items() -> None:
    before = clicks([(0, 5), (0, 1), (0, 2), (0, 1), (0, 3), (1, 4)], "user")
    after = clicks([(0, 6), (1, 6)], "user")
    cases = user_cases(before, after, recent_items=2, size=8)
    assert cases.recent.toarray().nonzero()[1].tolist() == [
        1,
        3,
        4,
    ]  # user 0: 3, then 1 (not 2, which came before it); user 1: 4
    assert np.isneginf(cases.history.toarray()).sum(axis=1).tolist() == [4, 1]


def test_truth_is_distinct_and_new_and_users_without_it_do_not_count() -> None:
    before = clicks([(0, 1), (2, 1)], "user")
    cases = user_cases(
        before, clicks([(0, 1), (0, 1), (1, 2), (1, 2), (2, 3), (2, 4), (2, 1)], "user"), 10, 8
    )
    assert cases.users == 2  # users 1 and 2
    assert cases.truth_sizes().tolist() == [1, 2]
    assert cases.recent.toarray().sum(axis=1).tolist() == [0, 1]


def test_a_run_of_clicks_is_one_trigger_and_sessions_do_not_join() -> None:
    after = clicks([(0, 1), (0, 1), (0, 2), (0, 1), (1, 5), (2, 5), (2, 6)], "session").assign(
        user=[7, 7, 7, 7, 7, 9, 9]
    )
    cases = next_cases(after)
    assert list(
        zip(cases.user.tolist(), cases.trigger.tolist(), cases.target.tolist(), strict=True)
    ) == [(0, 1, 2), (0, 2, 1), (1, 5, 6)]


def hold_out(
    root: Path,
    history: dict[str, list[str]],
    after: list[tuple[str, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(toy, "HISTORY", history)
    monkeypatch.setattr(toy, "AFTER", after)
    toy.write_heldout(root / "build/toy/heldout")


def test_users_are_judged_where_no_session_has_a_next_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last item of each user: u1 (had a) gets b c, not d; u2 (had c) gets a b, and b it was."""
    config = toy.write_project(tmp_path)
    hold_out(tmp_path, {"u1": ["a"], "u2": ["c"]}, [("u1", ["d"]), ("u2", ["b"])], monkeypatch)
    record = judged(config)
    assert record["cases"] == {
        "users": 2,
        "next": 0,
        "next_rare": 0,
        "next_never_seen": 0,
        "left_out": 0,
    }
    for model in record["models"].values():
        for figure in ("next_all", "next_rare"):
            assert model[figure] == {"value": None, "low": None, "high": None}
        assert model["ceiling"] is None
    found = figures(record["models"]["popularity"])
    assert [
        found[name] for name in ("hit_rate", "recall", "precision", "f1", "coverage")
    ] == pytest.approx([1 / 2, 1 / 2, 1 / 4, 1 / 3, 3 / 6])


def test_next_items_are_judged_where_no_user_has_a_new_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a-b is in popularity's b c, b-d not in its a c; whoever has no case has no figure, and not
    one of 0."""
    config = toy.write_project(tmp_path)
    hold_out(tmp_path, {"u1": ["a", "b", "d"]}, [("u1", ["a", "b", "d"])], monkeypatch)
    record = judged(config)
    assert record["cases"] == {
        "users": 0,
        "next": 2,
        "next_rare": 1,
        "next_never_seen": 0,
        "left_out": 0,
    }
    for model in record["models"].values():
        for figure in ("hit_rate", "recall", "precision", "f1"):
            assert model[figure] == {"value": None, "low": None, "high": None}
        assert (model["coverage"], model["top1_share"]) == (None, None)
    assert record["models"]["popularity"]["next_all"]["value"] == pytest.approx(1 / 2)


def test_a_held_out_part_without_any_case_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.write_project(tmp_path)
    hold_out(tmp_path, {"u1": ["a"]}, [("u1", ["a"])], monkeypatch)
    assert (
        "holds no user with a new item and no session of two items: hold out more in [split]"
        in fails(capsys, config)
    )


def test_validation_users_are_in_no_figure_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty users, of whom those for validation have what no other has: figures are those of a
    held-out part without them."""
    config = toy.write_project(tmp_path)
    users = [f"user {number}" for number in range(20)]
    for_validation = heldout.of_validation(pa.array(users), 0.3)
    assert 0 < for_validation.sum() < 20
    history = {
        user: (["c"] if chosen else ["a"])
        for user, chosen in zip(users, for_validation, strict=True)
    }
    after = [
        (user, ["d", "e"] if chosen else ["b", "c"])
        for user, chosen in zip(users, for_validation, strict=True)
    ]
    hold_out(tmp_path, history, after, monkeypatch)
    record = judged(config, "--evaluate.validation-users", "0.3")
    left_out = int(for_validation.sum())
    judged_users = 20 - left_out
    assert record["cases"] == {
        **{
            "users": judged_users,
            "next": judged_users,
            "next_rare": judged_users,
            "next_never_seen": 0,
        },
        "left_out": left_out,
    }
    others = [user for user, chosen in zip(users, for_validation, strict=True) if not chosen]
    hold_out(
        tmp_path,
        {user: history[user] for user in others},
        [case for case in after if case[0] in others],
        monkeypatch,
    )
    alone = judged(config, "--evaluate.validation-users", "0")
    assert alone["cases"]["users"] == record["cases"]["users"]
    assert {name: figures(model) for name, model in alone["models"].items()} == {
        name: figures(model) for name, model in record["models"].items()
    }


def test_whom_training_looked_at_is_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy.write_project(tmp_path)
    path = tmp_path / "build/toy/embeddings/manifest.json"
    record = json.loads(path.read_text())
    record["run"][heldout.VALIDATION_USERS] = "0.1"
    path.write_text(json.dumps(record))
    error = fails(capsys, config, "--evaluate.validation-users", "0.05")
    assert (
        "looked at 10% of the held-out users, and evaluate.validation_users = 0.05 leaves fewer out"
        in error
    )
    judged(config, "--evaluate.validation-users", "0.1")
    judged(config, "--evaluate.validation-users", "0.2")


def test_only_validation_users_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.write_project(tmp_path)
    (user, *_) = (
        user for user in map(str, range(100)) if heldout.of_validation(pa.array([user]), 0.1)[0]
    )
    hold_out(tmp_path, {user: ["a"]}, [(user, ["b", "c"])], monkeypatch)
    assert (
        "no session of two items, besides 1 users for validation: hold out more in [split]"
        in fails(capsys, config)
    )


# Protocols against slow twins


def random_map(random: np.random.Generator, size: int, lowest: float) -> ItemMap:
    """Lists of different lengths, with many equal scores, for two thirds of the items."""
    triggers = np.flatnonzero(np.arange(size) % 3)
    items, scores = (
        np.full((len(triggers), 8), NONE, np.int32),
        np.zeros((len(triggers), 8), np.float32),
    )
    for line in range(len(triggers)):
        length = int(random.integers(0, 9))
        items[line, :length] = random.permutation(size)[:length]
        scores[line, :length] = np.sort(random.integers(0, 12, length) / 4 + lowest)[::-1]
    return ItemMap(items, scores, lists_by_trigger(triggers, size))


def plain_lists(similar_map: ItemMap) -> dict[int, list[tuple[int, float]]]:
    return {
        trigger: [
            (int(i), float(s))
            for i, s in zip(similar_map.items[at], similar_map.scores[at], strict=True)
            if i != NONE
        ]
        for trigger, at in enumerate(similar_map.list_of)
        if at != NONE
    }


def slow_recommend(
    lists: dict[int, list[tuple[int, float]]], history: list[int], k: int, recent_items: int
) -> list[int]:
    recent: list[int] = []
    for item in reversed(history):
        if item not in recent and len(recent) < recent_items:
            recent.append(item)
    sums: dict[int, float] = {}
    for trigger in recent:
        listed = lists.get(trigger, [])
        lift = min([0.0, *(score for _, score in listed)])
        for item, score in listed:
            sums[item] = sums.get(item, 0.0) + score - lift
    ranked = sorted(
        (-total, item) for item, total in sums.items() if item not in history and total > 0
    )
    return [item for _, item in ranked[:k]]


@pytest.mark.parametrize("lowest", [0.25, -1.5], ids=["positive", "negative"])
def test_user_protocol_as_its_slow_twin(lowest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.evaluation.map_recommender.USERS", 4)
    random = np.random.default_rng(5)
    size, k, recent_items = 30, 4, 3
    similar_map = random_map(random, size, lowest)
    histories = [random.integers(0, size, random.integers(0, 9)).tolist() for _ in range(25)]
    afters = [random.integers(0, size, random.integers(1, 6)).tolist() for _ in range(25)]
    before = clicks(
        [(user, item) for user, history in enumerate(histories) for item in history], "user"
    )
    after = clicks([(user, item) for user, items in enumerate(afters) for item in items], "user")
    cases = user_cases(before, after, recent_items, size)
    chosen = MapRecommender(similar_map).for_users(cases, k)
    hits = user_hits(chosen, cases).tolist()
    counted = [user for user in range(25) if set(afters[user]) - set(histories[user])]
    for line, user in enumerate(counted):
        expected = slow_recommend(plain_lists(similar_map), histories[user], k, recent_items)
        assert chosen[line].tolist() == expected + [NONE] * (k - len(expected))
        assert hits[line] == len(set(expected) & (set(afters[user]) - set(histories[user])))
    assert sum(hits) > 0


def test_next_item_as_its_slow_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.evaluation.outcome.CASES", 7)
    random = np.random.default_rng(6)
    similar_map = random_map(random, 12, 0.25)
    lists = plain_lists(similar_map)
    after = clicks(
        [(session, int(item)) for session in range(40) for item in random.integers(0, 12, 6)],
        "session",
    )
    cases = next_cases(after.assign(user=after["session"]))
    for k in (1, 3, 20):
        expected = [
            target in [item for item, _ in lists.get(trigger, []) if item != trigger][:k]
            for trigger, target in zip(cases.trigger.tolist(), cases.target.tolist(), strict=True)
        ]
        assert next_hits(MapRecommender(similar_map), cases, k).tolist() == expected
        assert any(expected)


def test_negative_scores_do_not_punish_a_neighbour() -> None:
    # Item 2 is a neighbour of both triggers, item 3 of one: adding -1 twice would put 3 first.
    items, scores = (
        np.array([[2, 4, NONE], [2, 3, 4]], np.int32),
        np.array([[-1, -5, 0], [-1, -1.5, -5]], np.float32),
    )
    similar_map = ItemMap(items, scores, lists_by_trigger(np.array([0, 1]), 5))
    assert contributions(similar_map).toarray().tolist() == [[0, 0, 4, 0, 0], [0, 0, 4, 3.5, 0]]
    cases = user_cases(clicks([(0, 0), (0, 1)], "user"), clicks([(0, 3)], "user"), 10, 5)
    assert MapRecommender(similar_map).for_users(cases, 2).tolist() == [[2, 3]]


def test_a_map_without_any_list_misses_everything() -> None:
    empty = ItemMap(
        np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32), np.full(5, NONE, np.int32)
    )
    users = user_cases(clicks([(0, 1)], "user"), clicks([(0, 2)], "user"), 10, 5)
    following = next_cases(clicks([(0, 1), (0, 2)], "session").assign(user=0))
    assert MapRecommender(empty).for_users(users, 2).tolist() == [[NONE, NONE]]
    assert next_hits(MapRecommender(empty), following, 2).tolist() == [False]


def test_only_known_triggers_and_listed_targets_could_be_hit() -> None:
    one_list = ItemMap(
        np.array([[1, 2]], np.int32),
        np.array([[2, 1]], np.float32),
        lists_by_trigger(np.array([0]), 5),
    )
    following = next_cases(
        clicks([(0, 0), (0, 1), (1, 3), (1, 1), (2, 0), (2, 4)], "session").assign(user=0)
    )  # 0-1 could; 3-1, 0-4 not
    model = MapRecommender(one_list)
    assert model.reachable(following).tolist() == [True, False, False]
    users = user_cases(clicks([(0, 0)], "user"), clicks([(0, 1)], "user"), 10, 5)
    outcome = outcome_of(model, users, following, catalogue_of([1] * 5), 2, 20)
    assert Ceiling().value(outcome) == pytest.approx(1 / 3)


# Intervals


USER_TERMS = ("users", "hits", "recall", "precision")
CLICKER_TERMS = ("next_all cases", "next_all hits", "next_rare cases", "next_rare hits")


def counted(by_user: np.ndarray, by_clicker: np.ndarray) -> Tally:
    users = dict(zip(USER_TERMS, by_user.T, strict=True))
    clickers = dict(zip(CLICKER_TERMS, by_clicker.T, strict=True))
    whole = {"ceiling": 1.0, "coverage": 1.0, "top1_share": 1.0}
    return Tally({"user": users, "clicker": clickers}, whole)


def shares(hits: np.ndarray) -> Tally:
    """A model that hits where `hits` says, the same in both protocols, one case a user, none of
    them rare."""
    one, none = np.ones(len(hits)), np.zeros(len(hits))
    return counted(
        np.column_stack([one, hits, hits, hits]), np.column_stack([one, hits, none, none])
    )


def test_interval_of_a_known_proportion() -> None:
    hits = np.arange(400) % 10 < 3
    figure = judge_all({"m": shares(hits)}, 2000, 1, ())["m"]["hit_rate"]
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert figure["value"] == pytest.approx(0.3)
    assert figure["low"] == pytest.approx(0.3 - half, abs=0.1 * half)
    assert figure["high"] == pytest.approx(0.3 + half, abs=0.1 * half)


def test_clicks_of_one_user_are_one_draw() -> None:
    # 100 users of ten clicks that all hit or all miss tell as little as 100 clicks.
    users = np.arange(100) % 2
    one = np.ones(100)
    model = counted(
        np.column_stack([one, users, users, users]),
        np.column_stack([10 * one, 10 * users, 0 * one, 0 * one]),
    )
    figure = judge_all({"m": model}, 2000, 1, ())["m"]["next_all"]
    assert figure["high"] - figure["low"] == pytest.approx(
        2 * 1.96 * math.sqrt(0.25 / 100), rel=0.1
    )


def test_differences_are_paired() -> None:
    hits = np.arange(400) % 10 < 3
    more = hits | (
        np.arange(400) % 100 == 55
    )  # hits wherever the other does, and for four users more
    figure = judge_all(
        {"more": shares(more), "base": shares(hits), "same": shares(hits)}, 2000, 1, ("base",)
    )
    assert set(figure["base"]["difference"]) == set()
    assert figure["same"]["difference"]["base"]["hit_rate"] == {"value": 0, "low": 0, "high": 0}
    difference = figure["more"]["difference"]["base"]["hit_rate"]
    assert difference["value"] == pytest.approx(0.01)
    assert (
        0 < difference["low"] < 0.01 < difference["high"] < 0.025
    )  # unpaired draws would reach from -0.05 to 0.07


def test_a_figure_without_cases_is_null() -> None:
    assert judge_all({"m": shares(np.ones(5))}, 10, 1, ())["m"]["next_rare"] == {
        "value": None,
        "low": None,
        "high": None,
    }


def test_bootstrap_draws_as_many_users_as_there_are() -> None:
    drawn = bootstrap_sums(np.column_stack([np.ones(50), np.arange(50)]), 200, 3)
    assert (drawn[:, 0] == 50).all()
    assert drawn[:, 1].std() > 0
    assert (drawn == bootstrap_sums(np.column_stack([np.ones(50), np.arange(50)]), 200, 3)).all()
    assert (drawn != bootstrap_sums(np.column_stack([np.ones(50), np.arange(50)]), 200, 4)).any()
    assert drawn[:, 1].mean() == pytest.approx(np.arange(50).sum(), rel=0.05)


# Messages


def test_lists_shorter_than_the_recommendations_are_refused() -> None:
    with pytest.raises(
        ValidationError,
        match="k = 51 recommendations from lists of neighbours = 50: raise neighbours or lower k",
    ):
        Evaluate(k=51, neighbours=50)
    assert Evaluate(k=50, neighbours=50).k == 50


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("embeddings/manifest.json", Path.unlink, "run jobs/export.py"),
        (
            "embeddings/manifest.json",
            lambda path: path.write_text("[]"),
            "is not the manifest of exported vectors",
        ),
        (
            "embeddings/manifest.json",
            lambda path: path.write_text('{"files": {}}'),
            "is not the manifest of exported vectors",
        ),
        (
            "embeddings/manifest.json",
            lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"run": {}})),
            "trained on other shards",
        ),
        ("embeddings/item.parquet", Path.unlink, "not there; run jobs/export.py again"),
        ("embeddings/item.context.parquet", damage, "SHA-256 differs.*run jobs/export.py again"),
        ("shards/manifest.json", Path.unlink, "run jobs/preprocess.py"),
        (
            "shards/manifest.json",
            lambda path: path.write_text(path.read_text() + " "),
            "trained on other shards.*run jobs/train.py again",
        ),
        ("shards/vocabulary/item.parquet", damage, "SHA-256 differs.*run jobs/preprocess.py again"),
        ("shards/item/1.parquet", damage, "SHA-256 differs.*run jobs/preprocess.py again"),
        ("heldout/manifest.json", Path.unlink, r"set \[split\]"),
        ("heldout/history.parquet", damage, "SHA-256 differs"),
    ],
)
def test_inputs_that_are_not_whole(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    change: Callable[[Path], object],
    message: str,
) -> None:
    config = toy.write_project(tmp_path)
    path = tmp_path / "build/toy" / file
    change(path)
    error = fails(capsys, config)
    assert error.startswith("evaluate.py: ")
    assert re.search(message, error)
    assert str(tmp_path / "build/toy/embeddings" if "trained on" in message else path) in error
    assert not (tmp_path / "build/toy/evaluation.json").exists()


def test_a_map_without_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(
        pa.table({"trigger": ["a"], "item_id": ["b"], "rank": [1], "score": [1.0]}), path
    )
    error = fails(capsys, toy.write_project(tmp_path), "--map", f"mine={path}")
    assert f"{path} has no column trigger_id (it has trigger, item_id, rank, score)" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--map", "m.parquet"], "--map m.parquet: give NAME=PATH"),
        (["--map", "m=nowhere.parquet"], "nowhere.parquet is not there"),
        (["--map", "m=a", "m=b"], "--map m=b: give NAME=PATH, each name once"),
        (["--vectors", "v=nowhere"], "nowhere/item.parquet is not there"),
    ],
)
def test_given_models_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in fails(capsys, toy.write_project(tmp_path), *arguments)


def test_a_map_with_a_column_of_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(
        pa.table({"trigger_id": ["a"], "item_id": ["b"], "rank": ["first"], "score": [1.0]}), path
    )
    assert f"{path} cannot be read as a map" in fails(
        capsys, toy.write_project(tmp_path), "--map", f"mine={path}"
    )


def test_two_models_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = toy.write_map(tmp_path / "m.parquet", [("a", "b", 1, 1.0)])
    assert "two models are called popularity" in fails(
        capsys, toy.write_project(tmp_path), "--map", f"popularity={path}"
    )


@pytest.mark.parametrize(
    ("vectors", "ids", "message"),
    [
        (
            pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32())),
            ["a", "b"],
            "all must have one length",
        ),
        (
            pa.array([[1.0], [math.inf]], pa.list_(pa.float32())),
            ["a", "b"],
            "values that are not finite",
        ),
        (pa.array([[1.0], [2.0]], pa.list_(pa.float32())), ["a", "a"], "stands there twice"),
    ],
)
def test_vectors_that_are_none(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    vectors: pa.Array,
    ids: list[str],
    message: str,
) -> None:
    pq.write_table(pa.table({"id": ids, "vector": vectors}), tmp_path / "item.parquet")
    error = fails(capsys, toy.write_project(tmp_path), "--vectors", f"v={tmp_path}")
    assert message in error
    assert str(tmp_path / "item.parquet") in error


def test_output_vectors_of_other_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = toy.write_project(tmp_path)
    for name in ("item.parquet", "item.context.parquet"):
        (tmp_path / name).write_bytes((tmp_path / "build/toy/embeddings" / name).read_bytes())
    rewrite(tmp_path / "item.context.parquet", lambda table: table.slice(1))
    assert "is not about the items of item.parquet" in fails(
        capsys, config, "--vectors", f"v={tmp_path}"
    )


def test_a_project_that_holds_nothing_out_is_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy.write_project(tmp_path)
    main([str(config)])
    record = tmp_path / "build" / "toy" / "evaluation.json"
    assert record.is_file()
    main([str(config), "--split.kind", "none"])
    assert "nothing is held out" in capsys.readouterr().out
    assert not record.exists()
