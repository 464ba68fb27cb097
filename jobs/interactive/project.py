"""The face of a project for notebooks and scripts: its vectors, neighbours and figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from jobs.common.arrays import Float32Array, Int64Array
from jobs.common.config import Project, load
from jobs.reporting.records import read_evaluation
from jobs.similarity.catalogue import Catalogue, EvaluationError, find_item, read_vocabulary
from jobs.similarity.maps import read_current_lists
from jobs.similarity.vectors import check_export, read_table_of_vectors, vector_matrix


@dataclass(frozen=True)
class NamedVectors:
    """Vectors with what they are of; row i of each is one node."""

    ids: list[str]
    titles: list[str]
    """Readable names; the id where there is none."""
    counts: Int64Array
    """[n] occurrences in the training sequences."""
    vectors: Float32Array
    """[n, d]"""


def open_project(*files: str | Path, **settings: Any) -> "OpenProject":
    """A project by its configuration files, which are laid over each other; settings such as
    `output="elsewhere"` or `evaluate={"k": 20}` are laid over them all.

    Raises ConfigError naming the file and the key.
    """
    return OpenProject(load([Path(file) for file in files], settings))


class OpenProject:
    """What the jobs wrote for a project. Nothing is read before it is asked for."""

    def __init__(self, project: Project) -> None:
        self.project, self.paths = project, project.paths

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items that were trained."""
        return read_vocabulary(self.paths.shards)

    def vectors(self, name: str = "item") -> NamedVectors:
        """Exported vectors by their file's name: a view (`item`), its output side (`item.context`),
        or one side of a relation (`item_category.item`).

        Raises EvaluationError or ManifestError naming what is absent, damaged or unknown.
        """
        exported = check_export(self.paths.embeddings).files
        if f"{name}.parquet" not in exported:
            names = ", ".join(file.removesuffix(".parquet") for file in exported)
            raise EvaluationError(
                f"{self.paths.embeddings} holds no vectors '{name}'; it holds {names}"
            )
        path = self.paths.embeddings / f"{name}.parquet"
        table = read_table_of_vectors(path)
        nodes = read_vocabulary(self.paths.shards, _view(name))
        rows = nodes.rows(table.column("id"))
        return NamedVectors(
            ids=table.column("id").cast(pa.string()).to_pylist(),
            titles=[nodes.name(row) for row in rows.tolist()],
            counts=nodes.counts[rows],
            vectors=vector_matrix(path, table),
        )

    def neighbours(self, item: str, score: str | None = None, k: int = 10) -> pd.DataFrame:
        """The first k of an item's list in a written map: item_id, title and score, best first;
        empty where the item has no list. `score` is the project's own unless given.

        `item` is an id, a title, or a part of one title; of items with the same title it is the
        most clicked. Raises EvaluationError where there is no such item or no such map.
        """
        score = score or self.project.evaluate.score
        catalogue, row = self.catalogue, find_item(self.catalogue, item)
        path = self.paths.similar / f"{score}.parquet"
        again = f"run jobs/similar.py with --evaluate.score {score}"
        table = read_current_lists(
            path, [catalogue.ids[row].as_py()], k, self.paths.embeddings, again
        )
        ids = table.column("item_id")
        titles = pc.coalesce(pc.take(catalogue.titles, pc.index_in(ids, catalogue.ids)), ids)
        columns = {"item_id": ids, "title": titles, "score": table.column("score")}
        frame: pd.DataFrame = pa.table(columns).to_pandas()
        return frame

    def figures(self) -> pd.DataFrame:
        """Model -> its figures on what was held out, as shares of 1, without their intervals.

        Raises ReportError where they are absent, or of other vectors than lie there now.
        """
        models = read_evaluation(self.project).models
        return pd.DataFrame({name: _values(vars(model)) for name, model in models.items()}).T


def _view(name: str) -> str:
    """The view whose nodes a file of vectors is of."""
    first, _, second = name.partition(".")
    return first if second in ("", "context") else second


def _values(figures: Mapping[str, Any]) -> dict[str, float | None]:
    points = {name: getattr(figure, "value", figure) for name, figure in figures.items()}
    return {name: value for name, value in points.items() if name not in ("difference", "seconds")}
