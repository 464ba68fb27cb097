"""Keeps a project's lake small, free of whom it must forget, and its past at hand: `spark-submit
jobs/maintain.py [CONFIG.toml ...]`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from jobs.common.config import Project, parse
from jobs.preprocessing.sparkjobs import failing, pipeline_of
from pipeline.config import Section
from pipeline.contracts.layout import Output
from pipeline.contracts.shards import Manifest
from pipeline.runs import maintenance
from pipeline.runs.pipeline import Pipeline
from pipeline.runs.preprocess import update
from pipeline.runs.rebuild import rebuild
from pipeline.storage.locations import location

JOB = "maintain.py"


class Options(Section):
    """Upkeep of a project's lake: remove a user, drop old days, compact, vacuum (in this order), or
    rebuild older shards."""

    remove_user: str | None = None
    """Remove all of this user from events to shards, and vacuum at once: older versions that hold
    the user can then not be rebuilt. Of rejects that could not be parsed, those go in which the id
    stands as a whole word."""
    keep_days: int | None = Field(default=None, ge=1)
    """Drop events, and all that follows from them, that are older than so many days, the newest
    event's day included; and rejects that came on older days, or on nobody knows which."""
    compact: bool = False
    """Put the small files of each table together."""
    vacuum_hours: float | None = Field(default=None, ge=0)
    """Remove files that only versions older than this read (a week: 168; part of an hour counts as
    one). A manifest that names such a version can then not be rebuilt."""
    rebuild: str | None = None
    """Write again, to the byte, the shards that a manifest of this project lists, and the held-out
    cases of that time, from the versions of the tables that it names: a file of lake/manifests,
    where that of each run is kept by its time, or a folder of shards."""
    to: str = "build/rebuilt"
    """Folder (a path or a URI) for what --rebuild writes."""


@dataclass(frozen=True)
class Maintained:
    """What was done; None: it was not asked for."""

    removed_rows: int | None
    dropped_events: int | None
    rebuilt: Manifest | None


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and do what was asked. Exit status 0 only when all of it is done."""
    project, options = parse(JOB, Options(), arguments)
    if options == Options(to=options.to):
        print(
            (
                f"{JOB}: say what to do: --remove-user, --keep-days, --compact, --vacuum-hours or "
                "--rebuild"
            ),
            file=sys.stderr,
        )
        sys.exit(2)
    with failing(JOB, project, "run this again; what was begun is not whole"):
        maintained = run(project, options)
    if maintained.rebuilt is not None:
        streams = [stream for several in maintained.rebuilt.streams.values() for stream in several]
        files = sum(len(stream.files) for stream in streams)
        print(f"{rebuilt_output(project, options).shards}: {files} files")


def run(project: Project, options: Options) -> Maintained:
    """Does what was asked, and says what was removed as soon as it is: what comes next takes long.

    Raises PipelineError, ManifestError or LocationError where it cannot be done.
    """
    with pipeline_of(project, "maintain") as pipeline:
        removed_rows, dropped_events = keep(pipeline, options)
        rebuilt = None
        if options.rebuild is not None:
            output = rebuilt_output(project, options)
            rebuilt = rebuild(pipeline, manifest_of(options.rebuild), output)
    return Maintained(removed_rows, dropped_events, rebuilt)


def keep(pipeline: Pipeline, options: Options) -> tuple[int | None, int | None]:
    """All but the rebuilding. Returns how many rows of a user, and how many old events were
    removed."""
    lake = pipeline.lake
    removed_rows = dropped_events = None
    if options.remove_user is not None:
        source = pipeline.settings.source
        removed_rows = maintenance.remove_user(lake, options.remove_user, source)
        print(f"{removed_rows:,} rows of user '{options.remove_user}' removed", flush=True)
    if options.keep_days is not None:
        dropped_events = maintenance.drop_before(lake, options.keep_days)
        print(f"{dropped_events:,} events dropped", flush=True)
    if options.remove_user is not None or options.keep_days is not None:
        update(pipeline)
    if options.compact:
        maintenance.compact(lake)
    # A user is not removed while older versions hold what was written of them.
    hours = 0.0 if options.remove_user is not None else options.vacuum_hours
    if hours is not None:
        maintenance.vacuum(lake, hours)
    return removed_rows, dropped_events


def manifest_of(given: str) -> Manifest:
    """A kept manifest, or that of a folder of shards."""
    where = location(given)
    is_file = where.name.endswith(".json")
    return Manifest.read_file(where) if is_file else Manifest.read(where)


def rebuilt_output(project: Project, options: Options) -> Output:
    """Where `rebuild` writes: beside the project, from its lake."""
    return Output.under(location(options.to), project.paths.lake)


if __name__ == "__main__":
    main()
