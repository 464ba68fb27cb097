"""From a raw click log to training shards: `spark-submit jobs/preprocess.py [CONFIG.toml ...] [--key value ...]`."""

import json
import sys
from collections.abc import Sequence

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from jobs.config import Project, parse
from jobs.samples import funnel_text, print_pairs
from pipeline.config import PipelineConfig, Section
from pipeline.files import code_version
from pipeline.manifest import Manifest, ManifestError
from pipeline.preprocess import Identity, Output, Pipeline
from pipeline.source import check_paths
from pipeline.spark import PipelineError, cause, open_session

JOB = "preprocess.py"


class Options(Section):
    """Turn a raw click log into clean clicks, sessions, vocabularies, graphs and training shards (Spark)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, say what came out. Exit status 0 only when all output is complete."""
    project, _ = parse(JOB, Options(), arguments)
    try:
        check_paths(project.source)
        run(project)
    except (PipelineError, ManifestError) as error:
        sys.exit(f"{JOB}: {error}")
    except (PySparkException, Py4JError, OSError) as error:
        unfinished = f"what this run wrote under {project.paths.root} has no manifest and will not be read; mend the cause and run again"
        sys.exit(f"{JOB}: {cause(error)}\n{unfinished}")


def run(project: Project) -> Manifest:
    """Writes all of a project's tables, shards and held-out cases."""
    paths = project.paths
    spark = open_session(f"m2grl preprocess {project.name}")
    output = Output(paths.lake, paths.shards, paths.heldout, paths.statistics)
    config = project.model_dump(mode="json", include=set(PipelineConfig.model_fields))
    try:
        manifest = Pipeline(spark, project, output, Identity(config, project.pipeline_hash, code_version())).run()
    finally:
        spark.stop()
    print(funnel_text(json.loads(paths.statistics.read_text(encoding="utf-8"))["funnel"]))
    print_pairs(paths.shards, manifest)
    return manifest


if __name__ == "__main__":
    main()
