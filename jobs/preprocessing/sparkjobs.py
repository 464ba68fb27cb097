"""What the jobs that use Spark share: a pipeline over a project's folder, and how they end when
something cannot be done."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from jobs.common.config import Project
from jobs.common.failures import failing_clearly
from pipeline.config import PipelineConfig
from pipeline.contracts.sealed import ManifestError
from pipeline.errors import PipelineError
from pipeline.log.headers import broken_file
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.spark import cause, open_session
from pipeline.storage.files import code_version
from pipeline.storage.locations import LocationError
from pipeline.storage.lock import one_writer


@contextmanager
def pipeline_of(project: Project, what: str) -> Iterator[Pipeline]:
    """A pipeline over a project's folder, which nobody else writes meanwhile. `what` names the
    Spark application."""
    config = project.model_dump(mode="json", include=set(PipelineConfig.model_fields))
    identity = Identity(config, project.pipeline_hash, code_version())
    with one_writer(project.paths.root):
        spark = open_session(f"m2grl {what} {project.name}")
        try:
            yield Pipeline(spark, project, project.paths.output, identity)
        finally:
            spark.stop()


def failing(
    job: str, project: Project, again: str = "run it again"
) -> AbstractContextManager[None]:
    """`failing_clearly` for the pipeline's errors, and for those that Spark and the Java below it
    raise."""
    known = (PipelineError, ManifestError, LocationError)
    return failing_clearly(job, project.paths.root, *known, again=again, explained=_explained)


def _explained(error: Exception) -> str | None:
    return (
        broken_file(error) or cause(error)
        if isinstance(error, PySparkException | Py4JError)
        else None
    )
