"""A log that arrives day by day: which rows a day's delivery holds, and which delivery a row came
with.

Rows of a delivery that happened on an earlier day are late. They belong to their own date, and name
their delivery in the column `batch`. So a day can be delivered again: it replaces what it brought
before.
"""

import re
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)
from pyspark.sql.types import DateType, StringType, TimestampNTZType, TimestampType

from pipeline.config import DAY_IN_PATH, Source
from pipeline.errors import PipelineError
from pipeline.log.columns import type_of
from pipeline.log.events import completed, map_events
from pipeline.log.readers import MALFORMED, SOURCE_FILE, read_rows, source_column
from pipeline.log.source_paths import NoFileError, check_items, check_log, resolve

_DIGITS = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}"}
_LETTERS = {"%Y": "yyyy", "%m": "MM", "%d": "dd"}
_GLOB = {"*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")"}
_DAY = "m2grl-day"
"""Stands for {date} while a path is made whole."""


def mapped(spark: SparkSession, source: Source, day: date | None) -> DataFrame:
    """The rows of one delivery as `events.map_events` has them; of all of them where `day` is None.

    Raises PipelineError where they cannot be read as configured.
    """
    log = source_of(source, day)
    raw = _rows_of_day(read_rows(spark, log), source, day)
    if day is not None and source.day is None:
        raw = completed(raw, source, f"what {day} brought")
    return map_events(raw, log, delivery=delivery_of(raw, source, day))


def check_files(source: Source, day: date | None, may_be_empty: bool = False) -> None:
    """Raises PipelineError before Spark starts where local files are absent or no tables of their
    format; those that would be a day's own are looked for only where it may not be empty."""
    log = source_of(source, day)
    check_items(log)
    if may_be_empty and source.day is None:
        return
    try:
        check_log(log)
    except NoFileError as absent:
        raise of_day(absent, source, day) from None


def of_day(absent: NoFileError, source: Source, day: date | None) -> NoFileError:
    """What is said where there is no file: of a day that has files of its own, that it may be
    empty."""
    has_own_files = day is not None and source.day is None
    if not has_own_files:
        return absent
    return NoFileError(f"{absent}, or add --empty-day if {day} brought nothing")


def _rows_of_day(raw: DataFrame, source: Source, day: date | None) -> DataFrame:
    """The rows that a day brought, where a column tells them; a malformed row of which it tells
    nothing may be one."""
    if day is None or source.day is None:
        return raw
    row_day = _day_column(raw, source, source.day)
    of_day = row_day.eqNullSafe(F.lit(day))
    unknown = F.col(MALFORMED).isNotNull() & row_day.isNull()
    return raw.where(of_day | unknown)


def _day_column(raw: DataFrame, source: Source, text: str) -> Column:
    """The day that `source.day` tells. Raises PipelineError where it is of no type that a day
    has."""
    column = source_column(raw, text, "source.day", source)
    type_ = type_of(raw, column)
    if not isinstance(type_, DateType | TimestampType | TimestampNTZType | StringType):
        raise PipelineError(
            f"source.day = '{text}' is a {type_.simpleString()}, no date; make it one, "
            f"such as to_date(CAST({text} AS STRING), 'yyyyMMdd') for days written as 20241231"
        )
    return column.try_cast("date")


def source_of(source: Source, day: date | None) -> Source:
    """The source with the path of one delivery; of all of them where `day` is None.

    Raises PipelineError where a day is asked of a source that does not say how its days are told
    apart.
    """
    if day is not None and source.day is None and not DAY_IN_PATH.search(source.path):
        raise PipelineError(
            "--date needs a log that says which rows a day brought: put {date} into "
            "source.path (such as logs/{date}/*.csv), "
            "or name the column by source.day"
        )
    path = DAY_IN_PATH.sub(lambda match: _written(_form(match), day), source.path)
    return source.model_copy(update={"path": path})


def _form(day_in_path: re.Match[str]) -> str:
    return day_in_path[1] or "%Y-%m-%d"


def _written(form: str, day: date | None) -> str:
    return re.sub("%[Ymd]", "*", form) if day is None else day.strftime(form)


def delivery_of(raw: DataFrame, source: Source, day: date | None) -> Column:
    """The delivery that each row of `read_rows` came with: the `day` asked for, else as `source`
    tells by path or column; null where it does not, or a column tells no date.

    `source`: as configured, before `source_of`. Raises PipelineError naming a file of which the
    path tells no day.
    """
    if day is not None:
        return F.lit(day)
    if source.day is not None:
        return _day_column(raw, source, source.day)
    day_in_path = DAY_IN_PATH.search(source.path)
    if day_in_path is None:
        return F.lit(None).cast("date")
    form = _form(day_in_path)
    path = qualified(raw.sparkSession, DAY_IN_PATH.sub(_DAY, resolve(source.path)))
    pattern = day_pattern(path, form)
    check_days(raw.inputFiles(), pattern, form, source.path)
    written_day = F.regexp_extract(_plain(F.col(SOURCE_FILE)), pattern, 1)
    return F.try_to_timestamp(written_day, F.lit(_spark_pattern(form))).cast("date")


def _spark_pattern(form: str) -> str:
    """%Y/%m/%d as Spark writes it; letters of the form's own are quoted."""

    def letters(part: re.Match[str]) -> str:
        return _LETTERS.get(part[0]) or f"'{part[0]}'"

    return re.sub("%[Ymd]|[A-Za-z]+", letters, form)


def qualified(spark: SparkSession, path: str) -> str:
    """A path with the scheme, host and folder that Spark takes for it where it names none."""
    jvm: Any = spark._jvm
    hadoop_path = jvm.org.apache.hadoop.fs.Path(path)
    file_system = hadoop_path.getFileSystem(spark._jsc.hadoopConfiguration())
    return str(file_system.makeQualified(hadoop_path).toString())


def day_pattern(path: str, form: str) -> str:
    """A regular expression over the whole decoded URI of a file, whose group is the day as written.

    `path`: a qualified one, in which _DAY stands for {date}. Files inside folders of that path are
    its files too.
    """
    escaped = re.escape(form).replace(r"\%", "%")
    digits = re.sub("%[Ymd]", lambda letter: _DIGITS[letter[0]], escaped)
    scheme, _, inside = path.partition(":")
    before, after = map(_as_pattern, inside.lstrip("/").split(_DAY))
    # Spark writes the URI of a local file sometimes with one slash, sometimes with three.
    return f"^{re.escape(scheme)}:/+{before}({digits}){after}(?:/.*)?$"


def check_days(uris: Iterable[str], pattern: str, form: str, path: str) -> None:
    """Raises PipelineError naming a file of which `day_pattern` tells no day."""
    for uri in sorted(set(map(unquote, uris))):
        match = re.match(pattern, uri)
        written_day = match[1] if match else ""
        try:
            datetime.strptime(written_day, form)
        except ValueError:
            raise PipelineError(
                f"the file '{uri}' does not tell its day by source.path = '{path}'; correct the "
                "path or the file's name"
            ) from None


def _plain(uri: Column) -> Column:
    """A URI decoded; a plus sign, which `url_decode` takes for a blank, stands for itself."""
    return F.url_decode(F.replace(uri, F.lit("+"), F.lit("%2B")))


def _as_pattern(glob: str) -> str:
    """A part of a path with the glob signs of Spark's file systems as a regular expression."""
    depth, pattern = 0, ""
    for sign in re.findall(r"\\.|\[[^\]]*\]|.", glob):
        depth += (sign == "{") - (sign == "}")
        if sign == "," and depth:
            pattern += "|"
        else:
            pattern += _GLOB.get(sign) or _sign_as_pattern(sign)
    return pattern


def _sign_as_pattern(sign: str) -> str:
    if len(sign) > 1 and sign.startswith("["):
        return sign.replace("[!", "[^", 1)
    return re.escape(sign[-1])
