"""From a raw click log to training shards: `spark-submit jobs/preprocess.py [CONFIG.toml ...]
[--key value ...]`."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field
from rich.console import Console
from rich.progress import track

from jobs.common.config import Project, parse
from jobs.preprocessing.preview import print_check
from jobs.preprocessing.samples import funnel_text, print_pairs
from jobs.preprocessing.sparkjobs import failing, pipeline_of
from pipeline.config import Section
from pipeline.contracts.sealed import MANIFEST
from pipeline.contracts.shards import Manifest
from pipeline.contracts.verify import verify
from pipeline.errors import PipelineError
from pipeline.log.deliveries import check_files, source_of
from pipeline.runs.preprocess import Preprocessed, preprocess
from pipeline.runs.preview import Check, read_sample
from pipeline.spark import open_session
from pipeline.storage.locations import Location, location

JOB = "preprocess.py"


class Options(Section):
    """Turn a raw click log into clean clicks, sessions, vocabularies, graphs and training shards
    (Spark)."""

    date: datetime.date | None = None
    """Take in what this day brought (such as 2024-12-31), in the place of what it brought before;
    none: the whole log, in the place of all there is. Needs {date} in source.path, or
    source.day."""
    empty_day: bool = False
    """The day of --date may have brought nothing, not even a file; what it brought before then
    goes. Without it, a run stops where a day's files are absent, or the log has no row of a day of
    which the lake has events."""
    verify: str | None = None
    """Check this folder of shards (a path or a URI) against its manifest, file by file, and do
    nothing else."""
    check: bool = False
    """Read a sample of the log and all of the item tables, show how they are understood and what
    would be rejected, and write nothing. Of a log in JSON every row is read, for its columns; of
    one in CSV or Parquet the head of each file."""
    check_rows: int = Field(default=10_000, ge=1)
    """How many rows the sample of --check has, from the beginning."""


@dataclass(frozen=True)
class Verified:
    """A folder of shards that is as its manifest says."""

    folder: Location
    files: int
    pairs: int


PreprocessResult = Preprocessed | Check | Verified
"""Of a run; of one with --check; of one with --verify."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, say what came out. Exit status 0 only when all output is complete."""
    project, options = parse(JOB, Options(), arguments)
    again = "run it again"
    if not options.check and options.verify is None:
        again = (
            f"run it again; what this run began under {project.paths.root} is not whole and will "
            "not be read"
        )
    with failing(JOB, project, again):
        show(project, options, run(project, options))


def run(project: Project, options: Options) -> PreprocessResult:
    """Brings a project's tables, shards and held-out cases up to date with its whole log, or with
    what a day brought. With --check or --verify it looks and writes nothing.

    Raises PipelineError, ManifestError or LocationError where it cannot be done.
    """
    if options.verify is not None:
        return verify_shards(location(options.verify))
    if options.empty_day and options.date is None:
        raise PipelineError("--empty-day says something of a day; name it by --date")
    check_files(project.source, options.date, options.empty_day)
    if options.check:
        return check_sample(project, options.check_rows, options.date)
    with pipeline_of(project, "preprocess") as pipeline:
        return preprocess(pipeline, options.date, options.empty_day)


def show(project: Project, options: Options, result: PreprocessResult) -> None:
    """Prints what came out. Raises PipelineError where a sample has no event."""
    match result:
        case Verified():
            print(
                f"{result.folder}: {result.files} files are as {MANIFEST} says, "
                f"{result.pairs:,} pairs in all"
            )
        case Check():
            show_sample(project, options.date, result)
        case Preprocessed():
            print(funnel_text(result.figures["funnel"], result.item_examples))
            print_pairs(project.paths.shards, result.manifest)


def verify_shards(folder: Location) -> Verified:
    """Checks a folder of shards. Raises ManifestError."""
    manifest = Manifest.read(folder)
    streams = [stream for several in manifest.streams.values() for stream in several]
    files = [file for stream in streams for file in stream.files]
    checked = track(
        verify(folder, manifest),
        "checking files",
        total=len(files) + len(manifest.views),
        console=Console(stderr=True),
    )
    return Verified(folder, sum(1 for _ in checked), sum(file.pairs for file in files))


def check_sample(project: Project, rows: int, day: datetime.date | None = None) -> Check:
    """Reads a sample of the log, or of what a day brought."""
    spark = open_session(f"m2grl check {project.name}")
    try:
        return read_sample(spark, project, rows, day)
    finally:
        spark.stop()


def show_sample(project: Project, day: datetime.date | None, sample: Check) -> None:
    """Prints a sample. Raises PipelineError where it has no event."""
    log = source_of(project.source, day)
    print_check(sample, project.model_copy(update={"source": log}))
    if not sample.events:
        counts = [f"{group.name}: {group.rows:,}" for group in sample.rejected]
        reasons = ", ".join(counts) or "it is empty"
        raise PipelineError(
            f"no row of the sample of source.path '{log.path}' is an event ({reasons}); correct "
            "[source]"
        )


if __name__ == "__main__":
    main()
