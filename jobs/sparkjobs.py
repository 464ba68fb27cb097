"""What the jobs that use Spark share: a pipeline over a project's folder, and how they end when something cannot be done."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from jobs.config import Project
from pipeline.config import PipelineConfig
from pipeline.files import code_version
from pipeline.heads import broken_file
from pipeline.manifest import ManifestError
from pipeline.places import PlaceError
from pipeline.preprocess import Identity, Pipeline
from pipeline.spark import PipelineError, cause, open_session
from pipeline.writers import one_writer


@contextmanager
def pipeline_of(project: Project, what: str) -> Iterator[Pipeline]:
    """A pipeline over a project's folder, which nobody else writes meanwhile. `what` names the Spark application."""
    paths = project.paths
    config = project.model_dump(mode="json", include=set(PipelineConfig.model_fields))
    with one_writer(paths.root):
        spark = open_session(f"m2grl {what} {project.name}")
        try:
            yield Pipeline(spark, project, paths.output, Identity(config, project.pipeline_hash, code_version()))
        finally:
            spark.stop()


@contextmanager
def failing_with_cause(job: str, unfinished: str = "") -> Iterator[None]:
    """Ends the process with status 1 and `job: what; what to do` on standard error, in place of a traceback. `unfinished`: what to say of
    output that was begun, where the cause lies outside the pipeline."""
    try:
        yield
    except (PipelineError, ManifestError, PlaceError) as error:
        sys.exit(f"{job}: {error}")
    except (PySparkException, Py4JError, OSError) as error:
        sys.exit("\n".join(filter(None, (f"{job}: {broken_file(error) or cause(error)}", unfinished))))
