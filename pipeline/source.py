"""Reading a click log as its configuration describes it: raw files -> events, and rejects with the reason."""

import glob
import importlib.util
import os
import re
from pathlib import Path

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import Files, Source, Time
from pipeline.spark import PipelineError

SOURCE_FILE = "m2grl_source_file"
REASON, ROW = "reason", "row"
TEXT_COLUMNS = ("user_id", "item_id", "event_type", "app_session_id")
TIME_COLUMNS = ("timestamp", "app_open", "app_close")
NUMBER_COLUMNS = ("stay_seconds", "value")
_SCHEME = re.compile(r"^[a-z][a-z0-9]+:/", re.IGNORECASE)
_ZONE = r"\d:\d{2}(:\d{2}([.,]\d+)?)?\s*(Z|(?![AaPp][Mm]$)[A-Za-z]{2,}(/[A-Za-z_]+)*|[+-]\d{1,2}(:?\d{2})?)$"
"""How a written time ends that names its zone or offset."""
_ZONE_LETTERS = r"[VzOXxZ](?=(?:[^']*'[^']*')*[^']*$)"
"""Letters of a Spark datetime pattern, outside quotes, that stand for a zone or offset."""


def resolve(path: str) -> str:
    """Replaces `${NAME}`, `${NAME:-default}` and `package:NAME/` in a configured path.

    Raises PipelineError for a variable that is not set or a package that is not installed.
    """

    def variable(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(3)
        value = os.environ.get(name) or default
        if value is None:
            raise PipelineError(f"path '{path}' needs the environment variable {name}, which is not set")
        return value

    found = re.sub(r"\$\{(\w+)(:-([^}]*))?\}", variable, path)
    if found.startswith("package:"):
        package, _, inside = found.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise PipelineError(f"path '{path}': the Python package '{package}' is not installed")
        return str(Path(spec.origin).parent / inside)
    return found


def check_paths(source: Source) -> None:
    """Raises PipelineError naming the option whose local file is absent. Needs no Spark."""
    for option, files in (("source.path", source), *((f"source.items[{i}].path", table) for i, table in enumerate(source.items))):
        path = resolve(files.path)
        if not _SCHEME.match(path) and not glob.glob(path):  # noqa: PTH207  (the pattern may be absolute)
            raise PipelineError(f"{option}: there is no file '{path}'; correct the path, or set the variable it names")


def read(spark: SparkSession, files: Files) -> DataFrame:
    """The files' rows with all their columns and `source_file`. CSV columns are text."""
    defaults = {"csv": {"header": "true", "escape": '"'}}.get(files.format, {})
    frame = spark.read.format(files.format).options(**(defaults | files.options)).load(resolve(files.path))
    return frame.select("*", F.col("_metadata.file_path").alias(SOURCE_FILE))


def map_events(raw: DataFrame, source: Source) -> DataFrame:
    """Raw rows -> the fields of an event, one column each, and `reason`: why the row cannot be an event, else null.

    Ids are strings, an empty one is none; times are UTC timestamps. Raises PipelineError naming the option of a wrong column.
    """
    given = source.columns.model_dump(exclude_none=True)
    fields = {name: expression(raw, text, f"source.columns.{name}", source) for name, text in given.items()}
    typed = {name: _typed(raw, name, column, source.time) for name, column in fields.items()}
    attributes = {name: expression(raw, text, f"source.attributes.{name}", source) for name, text in source.attributes.items()}
    typed |= {name: column.cast("string") for name, column in attributes.items()}
    unread = fields["timestamp"].isNotNull()
    reason = (
        F.when(typed["user_id"].isNull(), "no user_id")
        .when(typed["item_id"].isNull(), "no item_id")
        .when(typed["timestamp"].isNull() & unread, "unreadable timestamp")
        .when(typed["timestamp"].isNull(), "no timestamp")
    )
    for name in (name for name in NUMBER_COLUMNS if name in fields):
        reason = reason.when(typed[name].isNull() & fields[name].isNotNull() & (fields[name].cast("string") != ""), f"unreadable {name}")
    whole_row = F.to_json(F.struct(*(F.col(f"`{name.replace('`', '``')}`") for name in raw.columns if name != SOURCE_FILE)))
    return raw.select(*(column.alias(name) for name, column in typed.items()), reason.alias(REASON), whole_row.alias(ROW), SOURCE_FILE)


def judged(mapped: DataFrame) -> DataFrame:
    """The fields of `map_events`, the UTC date and `reason`; without the raw row's text, which is costly and only rejects need."""
    fields = [name for name in mapped.columns if name not in (REASON, ROW, SOURCE_FILE)]
    return mapped.select(*fields, F.to_date("timestamp").alias("date"), REASON)


def rejects(mapped: DataFrame) -> DataFrame:
    """The rows of `map_events` that are no events: the raw row as text, the reason, the file."""
    return mapped.where(F.col(REASON).isNotNull()).select(ROW, REASON, F.col(SOURCE_FILE).alias("source_file"))


def expression(frame: DataFrame, text: str, option: str, files: Files) -> Column:
    """A configured column or SQL expression. Raises PipelineError where the table has no such column or it is no SQL."""
    try:
        column = F.expr(text)
        frame.select(column)
    except AnalysisException as error:
        columns = ", ".join(name for name in frame.columns if name != SOURCE_FILE)
        what = str(error.getMessage()).splitlines()[0]
        raise PipelineError(f"{option} = '{text}' cannot be read from {files.path}: {what} The columns are: {columns}") from None
    return column


def _typed(raw: DataFrame, name: str, column: Column, time: Time) -> Column:
    if name in TIME_COLUMNS:
        return to_timestamp(column, raw.select(column).schema[0].dataType.typeName(), time)
    if name in NUMBER_COLUMNS:
        return column.try_cast("double")
    return F.nullif(column.cast("string"), F.lit(""))


def to_timestamp(column: Column, type_name: str, time: Time) -> Column:
    """A written time as a UTC timestamp; null where it cannot be read. `type_name` is Spark's type of the column."""
    if time.unit in ("seconds", "milliseconds", "microseconds"):
        factor = {"seconds": 1_000_000, "milliseconds": 1000, "microseconds": 1}[time.unit]
        return F.timestamp_micros((column.try_cast("decimal(38,6)") * factor).try_cast("bigint"))
    read = F.try_to_timestamp(column.cast("string"), F.lit(time.pattern)) if time.unit == "pattern" else column.try_cast("timestamp")
    if time.zone == "UTC" or type_name == "timestamp":
        return read
    if time.unit == "pattern":
        names_zone = F.lit(re.search(_ZONE_LETTERS, time.pattern) is not None)
    else:
        names_zone = F.lit(False) if type_name == "timestamp_ntz" else column.cast("string").rlike(_ZONE)
    return F.when(names_zone, read).otherwise(F.to_utc_timestamp(read, time.zone))
