"""From a raw click log to training shards: `spark-submit jobs/preprocess.py [CONFIG.toml ...] [--key value ...]`."""

import datetime
from collections.abc import Sequence

from pydantic import Field
from rich.console import Console
from rich.progress import track

from jobs.checking import print_check
from jobs.config import Project, parse
from jobs.samples import funnel_text, print_pairs
from jobs.sparkjobs import failing, pipeline_of
from pipeline.batches import source_of
from pipeline.check import check
from pipeline.config import Section
from pipeline.manifest import MANIFEST, Manifest, read_manifest
from pipeline.places import Place, place
from pipeline.source import check_paths
from pipeline.spark import PipelineError, open_session
from pipeline.verify import verify

JOB = "preprocess.py"


class Options(Section):
    """Turn a raw click log into clean clicks, sessions, vocabularies, graphs and training shards (Spark)."""

    date: datetime.date | None = None
    """Take in what this day brought (such as 2024-12-31), in the place of what it brought before; none: the whole log, in the place of all
    there is. Needs {date} in source.path, or source.day."""
    verify: str | None = None
    """Check this folder of shards (a path or a URI) against its manifest, file by file, and do nothing else."""
    check: bool = False
    """Read a sample of the log, show how it is understood and what would be rejected, and write nothing."""
    check_rows: int = Field(default=10_000, ge=1)
    """How many rows --check reads, from the beginning."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, say what came out. Exit status 0 only when all output is complete."""
    project, options = parse(JOB, Options(), arguments)
    writes = not options.check and options.verify is None
    again = f"run it again; what this run began under {project.paths.root} is not whole and will not be read"
    with failing(JOB, project, again if writes else "run it again"):
        if options.verify is not None:
            verify_shards(place(options.verify))
            return
        log = source_of(project.source, options.date)
        check_paths(log)
        if options.check:
            check_sample(project.model_copy(update={"source": log}), options.check_rows)
        else:
            run(project, options.date)


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


def run(project: Project, day: datetime.date | None = None) -> Manifest:
    """Brings a project's tables, shards and held-out cases up to date with its whole log, or with what a day brought."""
    with pipeline_of(project, "preprocess") as pipeline:
        manifest = pipeline.run(day)
    print(funnel_text(pipeline.figures["funnel"]))
    print_pairs(project.paths.shards, manifest)
    return manifest


if __name__ == "__main__":
    main()
