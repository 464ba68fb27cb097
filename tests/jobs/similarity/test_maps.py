"""Scores, search, Item-CF and maps: hand-computed cases, and slow twins in plain Python."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

from jobs.baselines import item_cf as item_cf_module
from jobs.baselines.item_cf import SessionTokens, item_cf, read_sessions
from jobs.baselines.popularity import Popularity
from jobs.common.evaluate import Evaluate
from jobs.evaluation.cases import NextCases
from jobs.similarity.catalogue import Catalogue, EvaluationError, distinct
from jobs.similarity.maps import (
    NONE,
    ItemMap,
    best_columns,
    given_map,
    lists_by_trigger,
    read_map_table,
    write_map,
)
from jobs.similarity.scores import nearest_rows, similarity_map
from jobs.similarity.vectors import Vectors
from tests.jobs import evaluation_toy as toy


def catalogue_of(counts: list[int], vocabulary: int | None = None) -> Catalogue:
    ids = pa.array([f"i{row}" for row in range(len(counts))], pa.string())
    numbers = np.array(counts, np.int64)
    return Catalogue(
        ids,
        pa.nulls(len(counts), pa.string()),
        numbers,
        numbers,
        len(counts) if vocabulary is None else vocabulary,
    )


def vectors_of(inputs: list[list[float]], outputs: list[list[float]] | None = None) -> Vectors:
    rows = np.arange(len(inputs), dtype=np.int32)
    return Vectors(
        rows,
        np.array(inputs, np.float32),
        None if outputs is None else np.array(outputs, np.float32),
    )


def lists(similar: ItemMap) -> dict[int, list[tuple[int, float]]]:
    """trigger -> its (item, score), best first."""
    return {
        trigger: [
            (int(i), float(s))
            for i, s in zip(similar.items[row], similar.scores[row], strict=True)
            if i != NONE
        ]
        for trigger, row in enumerate(similar.list_of)
        if row != NONE
    }


def items_of(similar: ItemMap) -> dict[int, list[int]]:
    return {trigger: [item for item, _ in pairs] for trigger, pairs in lists(similar).items()}


TOY = vectors_of(toy.INPUTS, toy.OUTPUTS)
TOY_CATALOGUE = catalogue_of(toy.COUNTS)


def test_cosine_is_the_inner_product_of_unit_vectors() -> None:
    # a (1, 0), b (.8, .6), c (0, 1), d (.707, .707), e (-1, 0); f is zero: it has no direction, so
    # it is neither trigger nor neighbour
    found = lists(similarity_map("cosine", TOY, TOY_CATALOGUE, Evaluate(k=1, neighbours=3)))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert [item for item, _ in found[0]] == [1, 3, 2]
    assert [score for _, score in found[0]] == pytest.approx([0.8, math.sqrt(0.5), 0.0])
    assert found[1][0][0] == 3
    assert found[1][0][1] == pytest.approx(1.4 * math.sqrt(0.5))  # .8 + .6 times .707


def test_cosine_takes_lengths_from_counts() -> None:
    # beta 1 multiplies the candidate (and the trigger) by its count: a's neighbours b 30*20*.8, d
    # 30*5*.707, c 0, e -30*2
    found = lists(
        similarity_map(
            "cosine", TOY, TOY_CATALOGUE, Evaluate(k=1, neighbours=4, cosine_count_exponent=1.0)
        )
    )
    assert [item for item, _ in found[0]] == [1, 3, 2, 4]
    assert [score for _, score in found[0]] == pytest.approx([480, 150 * math.sqrt(0.5), 0, -60])


def test_inner_is_the_papers_product_of_input_vectors() -> None:
    # a = (3, 0): b 12, d 3, c 0 and f 0 (ties by row), e -3
    found = lists(similarity_map("inner", TOY, TOY_CATALOGUE, Evaluate(k=1, neighbours=5)))
    assert found[0] == [(1, 12.0), (3, 3.0), (2, 0.0), (5, 0.0), (4, -3.0)]


def test_conditional_is_a_softmax_of_trigger_input_times_candidate_output_plus_log_count() -> None:
    # c = (0, 2): a 0 + log 30, b 2 + log 20, d -2 + log 5, e 0 + log 2, f 0 + log 1 (count 0 is
    # taken as 1); odds e^score
    odds = {0: 30.0, 1: 20 * math.exp(2), 3: 5 * math.exp(-2), 4: 2.0, 5: 1.0}
    found = lists(
        similarity_map(
            "conditional", TOY, TOY_CATALOGUE, Evaluate(k=1, neighbours=5, conditional_exponent=1.0)
        )
    )
    assert [item for item, _ in found[2]] == [1, 0, 4, 5, 3]
    assert [score for _, score in found[2]] == pytest.approx(
        [odds[item] / sum(odds.values()) for item in (1, 0, 4, 5, 3)], rel=1e-5
    )


def test_conditional_exponent_weighs_the_count() -> None:
    # without counts c's list is by output alone: b 2, then a, e and f 0 by row
    found = items_of(
        similarity_map(
            "conditional", TOY, TOY_CATALOGUE, Evaluate(k=1, neighbours=4, conditional_exponent=0.0)
        )
    )
    assert found[2] == [1, 0, 4, 5]


def test_conditional_needs_output_vectors() -> None:
    with pytest.raises(EvaluationError, match="conditional score needs output vectors"):
        similarity_map("conditional", vectors_of(toy.INPUTS), TOY_CATALOGUE, Evaluate())


def test_a_map_speaks_of_catalogue_rows() -> None:
    catalogue = catalogue_of([1, 1, 1, 1])
    vectors = replace(vectors_of([[1.0], [2.0]]), rows=np.array([1, 3], np.int32))
    assert lists(similarity_map("inner", vectors, catalogue, Evaluate(k=1, neighbours=5))) == {
        1: [(3, 2.0)],
        3: [(1, 2.0)],
    }


@pytest.mark.parametrize("k", [1, 3, 7, 39, 60])
@pytest.mark.parametrize("values", [2, 50], ids=["many ties", "few ties"])
def test_search_is_exact_and_ties_go_by_row(
    k: int, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.similarity.scores.TRIGGERS_AT_A_TIME", 7)
    random = np.random.default_rng(k)
    triggers, candidates = random.integers(-values, values, (2, 40, 3)).astype(
        np.float32
    )  # whole numbers: products are exact
    asked, usable = np.arange(1, 40), np.flatnonzero(np.arange(40) % 5)
    found, scores = nearest_rows(triggers, candidates, asked, usable, k, "")
    for line, trigger in enumerate(asked):
        ranked = sorted(
            (-float(triggers[trigger] @ candidates[row]), int(row))
            for row in usable
            if row != trigger
        )[:k]
        assert found[line].tolist() == [row for _, row in ranked] + [NONE] * (k - len(ranked))
        assert scores[line].tolist() == [-product for product, _ in ranked] + [0.0] * (
            k - len(ranked)
        )


def test_search_among_nothing() -> None:
    found, _ = nearest_rows(
        np.ones((2, 1), np.float32), np.ones((2, 1), np.float32), np.arange(2), np.arange(0), 3, ""
    )
    assert found.tolist() == [[NONE] * 3] * 2


def test_item_cf_by_hand(tmp_path: Path) -> None:
    toy.write_shards(tmp_path, toy.SESSIONS)
    tokens = read_sessions(tmp_path)
    assert tokens is not None
    found = lists(item_cf(tokens, TOY_CATALOGUE, Evaluate(item_cf_exponent=0.5)))
    two, three, four = (
        1 / math.log2(3),
        1 / math.log2(4),
        1 / math.log2(5),
    )  # damping of sessions of two, three and four clicks
    # a is in 3 sessions, b in 2, c in 3, d in 1; a and c share a session of three and one of four,
    # where they count once
    ab, ac, bc, cd = (
        (two + three) / math.sqrt(6),
        (three + four) / 3,
        three / math.sqrt(6),
        two / math.sqrt(3),
    )
    assert {trigger: [item for item, _ in pairs] for trigger, pairs in found.items()} == {
        0: [1, 2], 1: [0, 2], 2: [3, 0, 1], 3: [2], 4: [], 5: [],
    }  # fmt: skip
    assert [score for _, score in found[2]] == pytest.approx([cd, ac, bc])
    assert found[0][0][1] == pytest.approx(ab)


@pytest.mark.parametrize("window", [1, 4, 30])
def test_item_cf_as_its_slow_twin(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_cf_module, "SLOTS", 50)  # many stripes
    monkeypatch.setattr(item_cf_module, "STRIPE", 3)
    random = np.random.default_rng(window)
    sessions = [random.integers(0, 12, random.integers(1, 20)).tolist() for _ in range(30)]
    tokens = SessionTokens(
        np.concatenate([np.array(s, np.int32) for s in sessions]),
        np.repeat(np.arange(len(sessions), dtype=np.int32), list(map(len, sessions))),
    )
    found = lists(
        item_cf(
            tokens, catalogue_of([1] * 14), Evaluate(item_cf_window=window, item_cf_exponent=0.25)
        )
    )
    for trigger, expected in slow_item_cf(sessions, window).items():
        assert dict(found[trigger]) == pytest.approx(expected, rel=1e-5)
        assert [score for _, score in found[trigger]] == sorted(
            (score for _, score in found[trigger]), reverse=True
        )


def slow_item_cf(sessions: list[list[int]], window: int) -> dict[int, dict[int, float]]:
    together: dict[int, dict[int, float]] = {item: {} for session in sessions for item in session}
    for session in sessions:
        near = {
            (a, b)
            for i, a in enumerate(session)
            for j, b in enumerate(session)
            if a != b and abs(i - j) <= window
        }
        for a, b in near:
            together[a][b] = together[a].get(b, 0.0) + 1 / math.log2(1 + len(session))
    times = {item: sum(item in session for session in sessions) for item in together}
    return {
        a: {b: weight / (times[a] ** 0.5 * times[b] ** 0.25) for b, weight in row.items()}
        for a, row in together.items()
    }


def test_a_file_without_rows_is_no_harm(tmp_path: Path) -> None:
    toy.write_shards(tmp_path, [[0, 1]])  # the second of two files is empty
    tokens = read_sessions(tmp_path)
    assert tokens is not None
    assert (tokens.items.tolist(), tokens.session.tolist()) == ([0, 1], [0, 0])


def test_item_cf_needs_sessions_in_the_shards(tmp_path: Path) -> None:
    toy.write_shards(tmp_path, [])
    assert read_sessions(tmp_path) is None


def test_popularity_is_one_list_for_all_triggers() -> None:
    model = Popularity.of(catalogue_of([5, 9, 0, 9]), 10)
    assert model.items.tolist() == [1, 3, 0]  # ties by row, nothing that was never clicked
    rows = np.arange(4, dtype=np.int32)
    each = NextCases(user=rows, trigger=rows, target=rows)
    assert model.for_next(each, 3).tolist() == [
        [1, 3, NONE],
        [3, 0, NONE],
        [1, 3, 0],
        [1, 0, NONE],
    ]
    assert model.reachable(each).tolist() == [True, True, False, True]


def test_best_takes_the_largest_positive_and_breaks_ties_by_column() -> None:
    rows = [[1.0, 3.0, 3.0, -1.0, 0.0], [-2.0, 0.0, 0.5, 0.5, -np.inf], [0.0] * 5]
    columns, scores = best_columns(csr_array(np.array(rows, np.float32)), 2)
    assert columns.tolist() == [[1, 2], [2, 3], [NONE, NONE]]
    assert scores.tolist() == [[3.0, 3.0], [0.5, 0.5], [0.0, 0.0]]


@pytest.mark.parametrize("k", [1, 4, 30])
def test_best_as_its_slow_twin(k: int) -> None:
    dense = np.random.default_rng(k).integers(-3, 6, (50, 20)).astype(np.float32) / 4
    columns, _ = best_columns(csr_array(dense), k)
    for row, line in enumerate(dense):
        expected = [
            column
            for _, column in sorted(
                (-score, column) for column, score in enumerate(line) if score > 0
            )
        ][:k]
        assert columns[row].tolist() == expected + [NONE] * (k - len(expected))


def test_distinct_numbers() -> None:
    assert distinct(np.array([3, 1, 3, 2, 1])).tolist() == [1, 2, 3]
    assert distinct(np.array([], np.int64)).tolist() == []


def test_a_map_survives_the_disk(tmp_path: Path) -> None:
    catalogue = catalogue_of([1] * 4)
    items, scores = (
        np.array([[2, 1], [0, NONE]], np.int32),
        np.array([[0.75, 0.5], [-2.5, 0]], np.float32),
    )
    write_map(
        tmp_path / "map.parquet",
        ItemMap(items, scores, lists_by_trigger(np.array([0, 3]), 4)),
        catalogue,
        {},
    )
    table = read_map_table(tmp_path / "map.parquet")
    assert table.to_pylist() == [
        {"trigger_id": "i0", "item_id": "i2", "rank": 1, "score": 0.75},
        {"trigger_id": "i0", "item_id": "i1", "rank": 2, "score": 0.5},
        {"trigger_id": "i3", "item_id": "i0", "rank": 1, "score": -2.5},
    ]
    assert lists(given_map(tmp_path, table, catalogue, 2)) == {
        0: [(2, 0.75), (1, 0.5)],
        3: [(0, -2.5)],
    }


def test_a_given_map_is_cut_by_rank_whatever_the_order_of_its_rows(tmp_path: Path) -> None:
    path = toy.write_map(
        tmp_path / "m.parquet",
        [("i1", "i0", 3, 0.1), ("i0", "i2", 1, 0.9), ("i1", "i2", 1, 0.3), ("i1", "i3", 2, 0.2)],
    )
    found = lists(given_map(path, read_map_table(path), catalogue_of([1] * 4), 2))
    assert {trigger: [item for item, _ in pairs] for trigger, pairs in found.items()} == {
        0: [2],
        1: [2, 3],
    }
    assert [score for _, score in found[1]] == pytest.approx([0.3, 0.2])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("i0", "i1", 1, 0.5), ("i0", "i1", 2, 0.4)], "stands twice in the list of one trigger"),
        ([("i0", "i1", 1, math.nan)], "column score holds values that are not finite"),
    ],
)
def test_a_given_map_that_is_none(
    tmp_path: Path, rows: list[tuple[str, str, int, float]], message: str
) -> None:
    path = toy.write_map(tmp_path / "m.parquet", rows)
    with pytest.raises(EvaluationError, match=message) as error:
        given_map(path, read_map_table(path), catalogue_of([1] * 4), 2)
    assert str(path) in str(error.value)
