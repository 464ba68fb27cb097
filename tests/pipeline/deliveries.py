"""Deliveries taken into a lake, for tests that need no more of a run."""

from datetime import date
from typing import Literal

from pyspark.sql import SparkSession

from pipeline.config import PipelineConfig
from pipeline.contracts.layout import Output
from pipeline.lake import Lake
from pipeline.runs.ingest import open_delivery, take_in
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.renew import Clicks, renew


def over(spark: SparkSession, settings: PipelineConfig, lake: Lake) -> Pipeline:
    """A pipeline whose lake is in a folder."""
    output = Output.under(lake.root.parent, lake.root)
    return Pipeline(spark, settings, output, Identity({}, "hash", "version"))


def ingest(
    pipeline: Pipeline, taking: date | Literal["all", "nothing"], may_be_empty: bool = False
) -> None:
    """Raw rows -> `events` and `rejects`."""
    take_in(pipeline, open_delivery(pipeline, taking, may_be_empty))


def ingest_and_renew(
    pipeline: Pipeline, taking: date | Literal["all", "nothing"], may_be_empty: bool = False
) -> Clicks:
    """Raw rows -> `clean`."""
    delivery = open_delivery(pipeline, taking, may_be_empty)
    return renew(pipeline, delivery, take_in(pipeline, delivery))
