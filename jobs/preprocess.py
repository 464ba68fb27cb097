"""From a raw click log to training shards: `spark-submit jobs/preprocess.py [CONFIG.toml ...] [--key value ...]`."""

import subprocess
import sys
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from jobs.config import Project, config_hash, parse
from jobs.samples import print_pairs
from pipeline.config import Section
from pipeline.manifest import Manifest, ManifestError
from pipeline.preprocess import Identity, Output, Pipeline
from pipeline.source import check_paths
from pipeline.spark import PipelineError, cause, open_session


class Preprocess(Section):
    """Turn a raw click log into clean clicks, sessions, vocabularies, graphs and training shards (Spark)."""


def main() -> None:
    """Parse, run, say what came out. Exit status 0 only when all output is complete."""
    project, _ = parse("jobs/preprocess.py", Preprocess())
    try:
        check_paths(project.source)
        run(project)
    except (PipelineError, ManifestError) as error:
        sys.exit(f"jobs/preprocess.py: {error}")
    except (PySparkException, Py4JError, OSError) as error:
        unfinished = f"{project.paths.shards} has no manifest, so nothing of it will be read; mend the cause and run again"
        sys.exit(f"jobs/preprocess.py: {cause(error)}\n{unfinished}")


def run(project: Project) -> Manifest:
    """Writes all of a project's tables, shards and held-out cases."""
    paths = project.paths
    spark = open_session(f"m2grl preprocess {project.name}")
    output = Output(paths.lake, paths.shards, paths.heldout, paths.statistics)
    config = project.model_dump(mode="json", exclude={"train", "evaluate"})
    try:
        pipeline = Pipeline(spark, project, output, Identity(config, config_hash(config), code_version()))
        manifest = pipeline.run()
    finally:
        spark.stop()
    print_pairs(paths.shards, manifest)
    return manifest


def code_version() -> str:
    """The commit of the code, where it lies in a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
