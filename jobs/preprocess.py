"""From a raw click log to training shards: `spark-submit jobs/preprocess.py [CONFIG.toml ...] [--key value ...]`."""

import json
import sys
from collections.abc import Sequence

from py4j.protocol import Py4JError
from pydantic import Field
from pyspark.errors import PySparkException
from rich.console import Console
from rich.progress import track

from jobs.checking import print_check
from jobs.config import Project, parse
from jobs.samples import funnel_text, print_pairs
from pipeline.check import check
from pipeline.config import PipelineConfig, Section
from pipeline.files import code_version
from pipeline.heads import broken_file
from pipeline.manifest import MANIFEST, Manifest, ManifestError, read_manifest
from pipeline.places import Place, PlaceError, place
from pipeline.preprocess import Identity, Output, Pipeline
from pipeline.source import check_paths
from pipeline.spark import PipelineError, cause, open_session
from pipeline.verify import verify

JOB = "preprocess.py"


class Options(Section):
    """Turn a raw click log into clean clicks, sessions, vocabularies, graphs and training shards (Spark)."""

    verify: str | None = None
    """Check this folder of shards (a path or a URI) against its manifest, file by file, and do nothing else."""
    check: bool = False
    """Read a sample of the log, show how it is understood and what would be rejected, and write nothing."""
    check_rows: int = Field(default=10_000, ge=1)
    """How many rows --check reads, from the beginning."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, say what came out. Exit status 0 only when all output is complete."""
    project, options = parse(JOB, Options(), arguments)
    try:
        if options.verify is not None:
            verify_shards(place(options.verify))
            return
        check_paths(project.source)
        if options.check:
            check_sample(project, options.check_rows)
        else:
            run(project)
    except (PipelineError, ManifestError, PlaceError) as error:
        sys.exit(f"{JOB}: {error}")
    except (PySparkException, Py4JError, OSError) as error:
        unfinished = f"what this run wrote under {project.paths.root} has no manifest and will not be read; mend the cause and run again"
        sys.exit(f"{JOB}: {broken_file(error) or cause(error)}" + ("" if options.check else f"\n{unfinished}"))


def verify_shards(folder: Place) -> None:
    """Checks a folder of shards and says so. Raises ManifestError."""
    manifest = read_manifest(folder)
    files = [file for streams in manifest.streams.values() for stream in streams for file in stream.files]
    checked = track(verify(folder, manifest), "checking files", total=len(files) + len(manifest.views), console=Console(stderr=True))
    print(f"{folder}: {sum(1 for _ in checked)} files are as {MANIFEST} says, {sum(file.pairs for file in files):,} pairs in all")


def check_sample(project: Project, rows: int) -> None:
    """Shows a sample of the log. Raises PipelineError where it has no event."""
    spark = open_session(f"m2grl check {project.name}")
    try:
        found = check(spark, project, rows)
    finally:
        spark.stop()
    print_check(found, project)
    if not found.events:
        reasons = ", ".join(f"{group.name}: {group.rows:,}" for group in found.rejected) or "it is empty"
        raise PipelineError(f"no row of the sample of source.path '{project.source.path}' is an event ({reasons}); correct [source]")


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
