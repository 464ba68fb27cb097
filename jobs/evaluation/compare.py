"""All models of a project, and any given ones, put to the same cases."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.baselines.item_cf import item_cf, read_sessions
from jobs.common.evaluate import Evaluate, Score
from jobs.evaluation.cases import UserCases, read_cases
from jobs.evaluation.measures import count, is_rare, judge
from jobs.similarity.catalogue import Catalogue, EvaluationError, read_vocabulary, with_held_out
from jobs.similarity.maps import ItemMap, Popularity, given_map, read_map_table
from jobs.similarity.scores import similarity_map
from jobs.similarity.vectors import (
    Vectors,
    check_export,
    check_left_out,
    read_export,
    read_ids,
    read_vectors,
)
from pipeline.contracts.shards import MANIFEST
from pipeline.storage.locations import Location

Makers = dict[str, Callable[[], ItemMap]]
"""Name of a model -> how its map is made. One map at a time is in memory."""
OURS, POPULARITY, ITEM_CF = "M2GRL", "popularity", "Item-CF"


def evaluate(
    shards: Location,
    embeddings: Path,
    heldout: Location,
    maps: Mapping[str, Path],
    vectors: Mapping[str, Path],
    settings: Evaluate,
    seed: int,
) -> dict[str, Any]:
    """Judges the exported vectors by each of `settings.scores`, the baselines, and the maps and
    folders of vectors given by name.

    The record for JSON: numbers of cases, and of users left out for validation, and per model its
    figures (shares of 1) with 95 % intervals. Raises ManifestError or EvaluationError naming the
    file that is absent, damaged or of another kind.
    """
    catalogue = with_held_out(read_vocabulary(shards), heldout)
    tables = {name: read_map_table(path) for name, path in maps.items()}
    catalogue = _with_given(catalogue, tables, vectors)
    users, following, left_out = read_cases(
        heldout, catalogue, settings.recent_items, settings.validation_users
    )
    makers = _by_score(
        OURS, read_export(embeddings, shards, catalogue), settings.scores, catalogue, settings
    )
    check_left_out(embeddings, settings.validation_users)
    makers |= _baselines(shards, catalogue, users, settings)
    given = _given(maps, tables, vectors, catalogue, settings)
    if twice := sorted(makers.keys() & given.keys()):
        raise EvaluationError(
            f"two models are called {', '.join(twice)}; give each --map and --vectors a name of "
            "its own"
        )
    counted, seconds = {}, {}
    for name, maker in (makers | given).items():
        began = time.perf_counter()
        counted[name] = count(
            maker(), users, following, catalogue, settings.k, settings.rare_clicks
        )
        seconds[name] = time.perf_counter() - began
    judged = judge(
        counted,
        settings.bootstrap,
        seed,
        tuple(name for name in (POPULARITY, ITEM_CF) if name in makers),
    )
    return {
        "k": settings.k,
        "cases": {
            "users": users.users,
            "next": len(following.target),
            "next_rare": int(is_rare(following, catalogue, settings.rare_clicks).sum()),
            "next_never_seen": int((catalogue.clicks[following.target] == 0).sum()),
            "left_out": left_out,
        },
        "models": {name: figures | {"seconds": seconds[name]} for name, figures in judged.items()},
    }


def _with_given(
    catalogue: Catalogue, tables: Mapping[str, pa.Table], vectors: Mapping[str, Path]
) -> Catalogue:
    """The catalogue with the items that only given models know: they can hit nothing, but take
    places."""
    for table in tables.values():
        catalogue = catalogue.extended(table.column("trigger_id")).extended(table.column("item_id"))
    for folder in vectors.values():
        catalogue = catalogue.extended(read_ids(folder))
    return catalogue


def _by_score(
    name: str, read: Vectors, scores: Sequence[Score], catalogue: Catalogue, settings: Evaluate
) -> Makers:
    return {
        f"{name} {score}": partial(similarity_map, score, read, catalogue, settings)
        for score in scores
    }


def _baselines(
    shards: Location, catalogue: Catalogue, users: UserCases, settings: Evaluate
) -> Makers:
    """Popularity, and Item-CF where the shards hold sessions."""
    longest = int(np.diff(users.history.indptr).max(initial=0))
    makers: Makers = {POPULARITY: partial(Popularity.of, catalogue, settings.k + longest + 1)}
    tokens = read_sessions(shards)
    return (
        makers
        if tokens is None
        else makers | {ITEM_CF: partial(item_cf, tokens, catalogue, settings)}
    )


def _given(
    maps: Mapping[str, Path],
    tables: Mapping[str, pa.Table],
    vectors: Mapping[str, Path],
    catalogue: Catalogue,
    settings: Evaluate,
) -> Makers:
    """Maps as they are, and vectors by each score that they allow."""
    makers: Makers = {
        name: partial(given_map, path, tables[name], catalogue, settings.neighbours)
        for name, path in maps.items()
    }
    for name, folder in vectors.items():
        if (folder / MANIFEST).exists():
            check_export(folder)
        read = read_vectors(folder, catalogue)
        scores = tuple(
            score for score in settings.scores if score != "conditional" or read.outputs is not None
        )
        makers |= _by_score(name, read, scores, catalogue, settings)
    return makers
