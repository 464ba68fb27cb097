"""Vectors and maps as models to judge, by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from jobs.common.evaluate import Evaluate, Score
from jobs.evaluation.map_recommender import MapRecommender
from jobs.evaluation.recommender import Recommender
from jobs.similarity.catalogue import Catalogue
from jobs.similarity.maps import given_map, read_map_table
from jobs.similarity.scores import similarity_map
from jobs.similarity.vectors import Vectors, check_export, read_ids, read_vectors
from pipeline.contracts.sealed import MANIFEST

Models = dict[str, Callable[[], Recommender]]
"""Name of a model -> how it is made. One at a time is in memory."""
OURS = "M2GRL"
"""How the names of the project's own models begin."""


class Given:
    """Maps and folders of vectors that somebody wants judged beside the project's own."""

    def __init__(self, maps: Mapping[str, Path], vectors: Mapping[str, Path]) -> None:
        """Reads the maps. Raises EvaluationError naming a file that is none."""
        self._maps, self._vectors = maps, vectors
        self._tables = {name: read_map_table(path) for name, path in maps.items()}

    def known_to(self, catalogue: Catalogue) -> Catalogue:
        """The catalogue with the items that only given models know: they can hit nothing, but take
        places. Raises EvaluationError naming a folder without vectors."""
        for ids in self._ids():
            catalogue = catalogue.extended(ids)
        return catalogue

    def _ids(self) -> Iterator[pa.ChunkedArray]:
        for table in self._tables.values():
            yield table.column("trigger_id")
            yield table.column("item_id")
        for folder in self._vectors.values():
            yield read_ids(folder)

    def models(self, catalogue: Catalogue, settings: Evaluate) -> Models:
        """Maps as they are, and vectors by each score that they allow. Raises EvaluationError
        naming a folder whose vectors are none."""
        models: Models = {}
        for name, path in self._maps.items():
            models[name] = _of_map(path, self._tables[name], catalogue, settings)
        for name, folder in self._vectors.items():
            if (folder / MANIFEST).exists():
                check_export(folder)
            vectors = read_vectors(folder, catalogue)
            scores = [score for score in settings.scores if _allows(vectors, score)]
            models |= by_score(name, vectors, scores, catalogue, settings)
        return models


def _allows(vectors: Vectors, score: Score) -> bool:
    return score != "conditional" or vectors.outputs is not None


def _of_map(
    path: Path, table: pa.Table, catalogue: Catalogue, settings: Evaluate
) -> Callable[[], Recommender]:
    return lambda: MapRecommender(given_map(path, table, catalogue, settings.neighbours))


def by_score(
    name: str, vectors: Vectors, scores: Sequence[Score], catalogue: Catalogue, settings: Evaluate
) -> Models:
    """One model for each score, called by both names."""

    def maker(score: Score) -> Callable[[], Recommender]:
        return lambda: MapRecommender(similarity_map(score, vectors, catalogue, settings))

    return {f"{name} {score}": maker(score) for score in scores}
