"""The lake: Delta tables under one root, each commit with a note of what it was made from and what
it changed.

Notes are what lets a run take up where another was stopped: a table whose note names an older
version of its input than there is now has not seen what changed since, and the input's notes say
what that is.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any

from py4j.protocol import Py4JError, Py4JJavaError
from pydantic import BaseModel, ConfigDict, ValidationError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Observation, SparkSession

from pipeline.errors import PipelineError
from pipeline.spark import cause
from pipeline.storage.files import remove_folder
from pipeline.storage.locations import Location, names, spark_path

SCRATCH = "_scratch"
KEEP_ROWS = frozenset({"OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES"})
"""Operations of Delta after which a table has the same rows."""
_FAST = {"compression": "lz4_raw", "parquet.enable.dictionary": "false"}
"""Of scratch tables, which are read once or a few times: what is cheapest to write."""
_CONFLICT = (
    "DELTA_CONCURRENT_",
    "ConcurrentModificationException",
    "DELTA_METADATA_CHANGED",
    "DELTA_PROTOCOL_CHANGED",
)
"""How Delta names a commit that another one has overtaken."""
_GONE = ("FILE_NOT_EXIST", "FileNotFoundException")


class GoneError(PipelineError):
    """An older version of a table was vacuumed."""


class Note(BaseModel):
    """What a commit says of itself."""

    model_config = ConfigDict(frozen=True)

    inputs: dict[str, int] = {}
    """Table -> version that the rows were made from."""
    settings: str = ""
    """Stands for the settings that decided them."""
    changed: tuple[str, ...] | None = None
    """Days (ISO) of which rows may have changed; None: all."""
    counts: dict[str, int] = {}
    """Figures of the whole table, which its rows alone do not tell."""


def dates_in(dates: Iterable[date], column: str = "date") -> str:
    """The condition for rows of some dates; there must be one."""
    literals = ", ".join(f"DATE'{day}'" for day in dates)
    return f"{column} IN ({literals})"


def observed(observation: Observation, names: Iterable[str]) -> dict[str, int]:
    """The counts of an observation whose frame has been written, 0 where they are null."""
    try:
        counts = dict(observation.get)
    except Py4JJavaError:
        # Spark knew before it began that there is no row, and then observes nothing.
        counts = {}
    return {name: int(counts.get(name) or 0) for name in names}


@contextmanager
def older_versions() -> Iterator[None]:
    """What reads older versions goes in here: raises GoneError where Spark finds that files of
    theirs are not there."""
    try:
        yield
    except (PySparkException, Py4JError) as error:
        if not any(sign in str(error) for sign in _GONE):
            raise
        raise GoneError(f"files of an older version were vacuumed: {cause(error)}") from None


class Lake:
    """Delta tables under one root. A write is one commit: readers see the table before it or after
    it."""

    def __init__(
        self,
        spark: SparkSession,
        root: Location,
        partition_by_date: bool = True,
        pinned: Mapping[str, int] | None = None,
    ) -> None:
        """`pinned`: table -> the version at which it is read, for a lake as it was."""
        self.spark = spark
        self.root = root
        self.partition_by_date = partition_by_date
        self._pinned = pinned
        self._scratch = root / SCRATCH
        self._expected: dict[str, int] = {}

    def write(
        self,
        table: str,
        frame: DataFrame,
        by: Sequence[str] = (),
        where: str | None = None,
        note: Note | None = None,
    ) -> DataFrame:
        """Replaces a table, or those of its rows that meet the condition `where`, and reads it
        back.

        `by`: columns by which the table is partitioned where the lake is, from the next write of
        the whole table on; `where` must hold for every row of the frame. Raises PipelineError where
        another process has written the table since this one last did or first looked.
        """
        assert self._pinned is None, "a lake as it was is not written"
        expected = self._check_alone(table)
        metadata = (note or Note()).model_dump_json()
        writer = frame.write.format("delta").mode("overwrite").option("userMetadata", metadata)
        if where is None:
            writer = writer.option("overwriteSchema", "true").option("mergeSchema", "false")
        else:
            writer = writer.option("replaceWhere", where).option("mergeSchema", "true")
        # A part of a table lies as the table does.
        decides_layout = where is None or not self.exists(table)
        if self.partition_by_date and by and decides_layout:
            writer = writer.partitionBy(*by)
        try:
            writer.save(self._path(table))
        except (PySparkException, Py4JJavaError) as error:
            if any(name in str(error) for name in _CONFLICT):
                raise PipelineError(self._overtaken(table)) from None
            raise
        version = self.version(table)
        # Delta makes no commit where there is nothing to remove and nothing to add.
        if expected is not None and version not in (expected, expected + 1):
            raise PipelineError(self._overtaken(table))
        self._expected[table] = version
        return self.read(table)

    def _path(self, table: str) -> str:
        return spark_path(self.root / table)

    def write_counted(
        self, table: str, frame: DataFrame, **counts: Column
    ) -> tuple[DataFrame, dict[str, int]]:
        """Replaces a table and returns it with aggregates of what was written, 0 where they are
        null."""
        observation = Observation(table)
        named = [column.alias(name) for name, column in counts.items()]
        written = self.write(table, frame.observe(observation, *named))
        return written, observed(observation, counts)

    def restore(self, table: str, version: int) -> None:
        """Makes an older version the newest again."""
        self.spark.sql(f"RESTORE TABLE delta.`{self._path(table)}` TO VERSION AS OF {version}")
        self._expected[table] = self.version(table)

    def tables(self) -> list[str]:
        """Every table of the lake, with what stands under a folder such as edges/item."""
        commits = names(self.root, r"\d+\.json", recursive=True)
        log = "/_delta_log/"
        return sorted({commit.split(log)[0] for commit in commits if log in commit})

    def optimize(self, table: str) -> None:
        """Puts a table's small files together."""
        self.spark.sql(f"OPTIMIZE delta.`{self._path(table)}`")
        self._expected[table] = self.version(table)

    def vacuum(self, table: str, hours: float) -> None:
        """Removes the files of a table that no version of the last `hours` reads; Delta takes whole
        ones, so a part of one is one."""
        # Tasks that list folders: Spark's 10,000 take longer to start than all there is to list.
        listing = "spark.sql.sources.parallelPartitionDiscovery.parallelism"
        self.spark.conf.set(listing, 2 * self.spark.sparkContext.defaultParallelism)
        whole_hours = math.ceil(hours)
        self.spark.sql(f"VACUUM delta.`{self._path(table)}` RETAIN {whole_hours} HOURS")
        self._expected[table] = self.version(table)

    def hold(self, tables: Sequence[str]) -> None:
        """From here on, a commit of another process to one of the tables makes this one's `write`
        fail."""
        self._expected |= {table: self.newest(table) for table in tables}

    def check_alone(self) -> None:
        """Raises PipelineError where another process has written a table since this one wrote it or
        first looked at it."""
        for table in self._expected:
            self._check_alone(table)

    def _check_alone(self, table: str) -> int | None:
        expected = self._expected.get(table)
        if expected is not None and expected != self.newest(table):
            raise PipelineError(self._overtaken(table))
        return expected

    def newest(self, table: str) -> int:
        """Number of the newest commit; -1: there is none."""
        return max(self._versions(table), default=-1)

    def _overtaken(self, table: str) -> str:
        return (
            f"another run has written {self.root / table} meanwhile; let it end, and run this "
            "one again if it is still wanted"
        )

    def read(self, table: str, version: int | None = None) -> DataFrame:
        """A version of a table; the newest unless it is given or pinned. Raises GoneError where it
        is not there any more; that its files are not, only `older_versions` finds."""
        if self._pinned is not None:
            version = self._pinned[table]
        reader = self.spark.read.format("delta")
        if version is None:
            return reader.load(self._path(table))
        try:
            return reader.option("versionAsOf", version).load(self._path(table))
        except PySparkException as error:
            raise GoneError(
                f"version {version} of {self.root / table} is no longer there: {cause(error)}"
            ) from None

    def exists(self, table: str) -> bool:
        """Whether the table was ever written; a log without a commit is what a run left that died
        in the first."""
        return bool(self._versions(table))

    def version(self, table: str) -> int:
        """Number of the version that `read` reads: the newest commit of the table's log, of which
        each is one file."""
        return self._versions(table)[-1] if self._pinned is None else self._pinned[table]

    def _versions(self, table: str) -> list[int]:
        # Sorted by name, which is the number with as many leading zeros as it takes.
        commits = names(self.root / table / "_delta_log", r"\d+\.json")
        return [int(commit.split(".")[0]) for commit in commits]

    def note(self, table: str) -> Note | None:
        """The note of the commit that left the table as it is; None where it has none."""
        if not self.exists(table):
            return None
        for operation, note in self._commits(table, -1):
            if operation not in KEEP_ROWS:
                return note
        return None

    def changed(self, table: str, since: int) -> list[str] | None:
        """Days of which rows may have changed after a version; None: any."""
        days: set[str] = set()
        newest = since
        for operation, note in self._commits(table, since):
            newest += 1
            if operation not in KEEP_ROWS:
                if note is None or note.changed is None:
                    return None
                days |= set(note.changed)
        # Fewer than there were: Delta has removed the oldest files of its log.
        return sorted(days) if newest == self.version(table) else None

    def changed_since(self, table: str, source: str, settings: str) -> list[str] | None:
        """Days of `source` of which rows may have changed since `table` was made from it; None:
        any, or `table` was not made from it by these settings."""
        note = self.note(table)
        if note is None or source not in note.inputs or note.settings != settings:
            return None
        return self.changed(source, note.inputs[source])

    def like(self, table: str, version: int) -> int:
        """The newest version that has the same rows as this one: where files were only put together
        since, the older ones may be gone."""
        versions = set(self._versions(table))
        while version + 1 in versions and self._commit(table, version + 1)[0] in KEEP_ROWS:
            version += 1
        return version

    def _commits(self, table: str, since: int) -> Iterator[tuple[str, Note | None]]:
        """Operation and note of the commits after a version, the newest first."""
        for version in reversed(self._versions(table)):
            if version > since:
                yield self._commit(table, version)

    def _commit(self, table: str, version: int) -> tuple[str, Note | None]:
        file = self.root / table / "_delta_log" / f"{version:020}.json"
        lines = file.read_text(encoding="utf-8").splitlines()
        # Actions of other kinds stand in the same file, and may be many: read up to the first.
        actions: Iterator[dict[str, Any]] = map(json.loads, lines)
        infos = (action["commitInfo"] for action in actions if "commitInfo" in action)
        info: dict[str, Any] = next(infos, {})
        try:
            note = Note.model_validate_json(info["userMetadata"])
        except (KeyError, ValidationError):
            note = None
        return str(info.get("operation")), note

    def scratch(self, name: str, frame: DataFrame) -> DataFrame:
        """Writes what several steps read once, so that none of them computes it again; `sweep`
        removes it."""
        path = spark_path(self._scratch / name)
        frame.write.mode("overwrite").options(**_FAST).parquet(path)
        return self.spark.read.parquet(path)

    def remove(self, table: str) -> None:
        """Removes a table with its past."""
        remove_folder(self.root / table)
        self._expected[table] = -1

    def sweep(self) -> None:
        """Removes all scratch tables."""
        remove_folder(self._scratch)
