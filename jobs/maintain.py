"""Keeps a project's lake small, free of whom it must forget, and its past at hand: `spark-submit
jobs/maintain.py [CONFIG.toml ...]`."""

import sys
from collections.abc import Sequence

from pydantic import Field

from jobs.common.config import Project, parse
from jobs.preprocessing.sparkjobs import failing, pipeline_of
from pipeline.config import Section
from pipeline.contracts.layout import Output
from pipeline.contracts.shards import read_manifest, read_manifest_file
from pipeline.runs import maintenance
from pipeline.runs.preprocess import Pipeline
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
    with (
        failing(JOB, project, "run this again; what was begun is not whole"),
        pipeline_of(project, "maintain") as pipeline,
    ):
        keep(pipeline, options)
        if options.rebuild is not None:
            rebuild(pipeline, project, options.rebuild, options.to)


def keep(pipeline: Pipeline, options: Options) -> None:
    """All but the rebuilding."""
    lake = pipeline.lake
    if options.remove_user is not None:
        removed = maintenance.remove_user(lake, options.remove_user, pipeline.settings.source)
        print(f"{removed:,} rows of user '{options.remove_user}' removed", flush=True)
    if options.keep_days is not None:
        print(f"{maintenance.drop_before(lake, options.keep_days):,} events dropped", flush=True)
    if options.remove_user is not None or options.keep_days is not None:
        pipeline.update()
    if options.compact:
        maintenance.compact(lake)
    hours = 0.0 if options.remove_user is not None else options.vacuum_hours
    if hours is not None:
        maintenance.vacuum(lake, hours)


def rebuild(pipeline: Pipeline, project: Project, shards: str, to: str) -> None:
    """Writes older shards again, of a kept manifest or of a folder's."""
    output = Output.under(location(to), project.paths.lake)
    given = location(shards)
    manifest = pipeline.rebuild(
        read_manifest_file(given) if given.name.endswith(".json") else read_manifest(given), output
    )
    print(
        f"{output.shards}: "
        f"{sum(len(stream.files) for streams in manifest.streams.values() for stream in streams)} "
        "files"
    )


if __name__ == "__main__":
    main()
