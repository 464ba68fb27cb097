"""A log that arrives day by day: which rows a day's delivery holds, and which delivery a row came
with.

Rows of a delivery that happened on an earlier day are late; they belong to their own date and to
the delivery's batch, so that a day can be delivered again in the place of what it brought before.
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
from pipeline.log.columns import expression, type_of
from pipeline.log.events import completed, map_events
from pipeline.log.readers import MALFORMED, SOURCE_FILE, read
from pipeline.log.source_paths import NoFileError, check_items, check_log, resolve

_DIGITS = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}"}
_LETTERS = {"%Y": "yyyy", "%m": "MM", "%d": "dd"}
_GLOB = {"*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")"}
_DAY = "m2grl-day"
"""Stands for {date} while a path is made whole."""


def mapped(spark: SparkSession, source: Source, day: date | None) -> DataFrame:
    """The rows of one delivery as `source.map_events` has them; of all of them where `day` is None.

    Raises PipelineError where they cannot be read as configured.
    """
    log = source_of(source, day)
    raw = _delivered(read(spark, log), source, day)
    if day is not None and source.day is None:
        raw = completed(raw, source, f"what {day} brought")
    return map_events(raw, log, batch=batch(raw, source, day))


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
    own = day is not None and source.day is None
    return NoFileError(f"{absent}, or add --empty-day if {day} brought nothing") if own else absent


def _delivered(raw: DataFrame, source: Source, day: date | None) -> DataFrame:
    """The rows that a day brought, where a column tells them; a malformed row of which it tells
    nothing may be one."""
    if day is None or source.day is None:
        return raw
    told = _told(raw, source, source.day)
    return raw.where(told.eqNullSafe(F.lit(day)) | (F.col(MALFORMED).isNotNull() & told.isNull()))


def _told(raw: DataFrame, source: Source, text: str) -> Column:
    """The day that `source.day` tells. Raises PipelineError where it is of no type that a day
    has."""
    column = expression(raw, text, "source.day", source.path, (MALFORMED, SOURCE_FILE))
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
    return source.model_copy(
        update={"path": DAY_IN_PATH.sub(lambda found: _written(_form(found), day), source.path)}
    )


def _form(found: re.Match[str]) -> str:
    return found[1] or "%Y-%m-%d"


def _written(form: str, day: date | None) -> str:
    return re.sub("%[Ymd]", "*", form) if day is None else day.strftime(form)


def batch(raw: DataFrame, source: Source, day: date | None) -> Column:
    """The delivery that each row of `readers.read` came with: the `day` asked for, else as `source`
    tells by path or column; null where it does not, or a column tells no date. `source`: as
    configured, before `source_of`.

    Raises PipelineError naming a file of which the path tells no day."""
    if day is not None:
        return F.lit(day)
    if source.day is not None:
        return _told(raw, source, source.day)
    found = DAY_IN_PATH.search(source.path)
    if found is None:
        return F.lit(None).cast("date")
    form, pattern = (
        _form(found),
        day_pattern(
            qualified(raw.sparkSession, DAY_IN_PATH.sub(_DAY, resolve(source.path))), _form(found)
        ),
    )
    check_days(raw.inputFiles(), pattern, form, source.path)
    letters = re.sub("%[Ymd]|[A-Za-z]+", lambda part: _LETTERS.get(part[0]) or f"'{part[0]}'", form)
    return F.try_to_timestamp(
        F.regexp_extract(_plain(F.col(SOURCE_FILE)), pattern, 1), F.lit(letters)
    ).cast("date")


def qualified(spark: SparkSession, path: str) -> str:
    """A path with the scheme, host and folder that Spark takes for it where it names none."""
    jvm: Any = spark._jvm
    given = jvm.org.apache.hadoop.fs.Path(path)
    return str(
        given.getFileSystem(spark._jsc.hadoopConfiguration()).makeQualified(given).toString()
    )


def day_pattern(path: str, form: str) -> str:
    """A regular expression over the whole decoded URI of a file, whose group is the day as written.

    `path`: a qualified one, in which _DAY stands for {date}. Files inside folders of that path are
    its files too.
    """
    digits = re.sub(
        "%[Ymd]", lambda letter: _DIGITS[letter[0]], re.escape(form).replace(r"\%", "%")
    )
    scheme, _, inside = path.partition(":")
    before, after = map(_as_pattern, inside.lstrip("/").split(_DAY))
    # Spark writes the URI of a local file sometimes with one slash, sometimes with three.
    return f"^{re.escape(scheme)}:/+{before}({digits}){after}(?:/.*)?$"


def check_days(uris: Iterable[str], pattern: str, form: str, path: str) -> None:
    """Raises PipelineError naming a file of which `day_pattern` tells no day."""
    for uri in sorted(set(map(unquote, uris))):
        found = re.match(pattern, uri)
        try:
            datetime.strptime(found[1] if found else "", form)
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
        pattern += "|" if sign == "," and depth else _GLOB.get(sign) or _sign_as_pattern(sign)
    return pattern


def _sign_as_pattern(sign: str) -> str:
    if len(sign) > 1 and sign.startswith("["):
        return sign.replace("[!", "[^", 1)
    return re.escape(sign[-1])
