"""What every step of a run is given: where it works, by which settings, and in whose name."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pyspark.sql import SparkSession

from pipeline.config import PipelineConfig
from pipeline.contracts.layout import Output
from pipeline.lake import Lake


@dataclass(frozen=True)
class Identity:
    """What made an output: kept in the manifest."""

    config: dict[str, Any]
    config_hash: str
    code_version: str


@dataclass(frozen=True)
class Pipeline:
    """A place to run in. It holds no result: steps take and return those."""

    spark: SparkSession
    settings: PipelineConfig
    output: Output
    identity: Identity
    versions: Mapping[str, int] | None = None
    """Table -> the version at which it is read; None: the newest. A lake with versions is not
    written."""

    @cached_property
    def lake(self) -> Lake:
        """The tables, all of one run through the same object, which notices other writers."""
        by_date = self.settings.lake.partition_by_date
        return Lake(self.spark, self.output.lake, by_date, self.versions)


def tables(settings: PipelineConfig) -> list[str]:
    """The lake's tables from which a set of shards follows."""
    return [
        "events",
        "rejects",
        "clean",
        "sessions",
        *(["items"] if settings.source.items else []),
        *(f"vocabulary/{view}" for view in settings.views),
        *(f"edges/{view}" for view in settings.views),
        *(f"links/{relation}" for relation in settings.relations),
    ]
