"""The files of a table as one frame: all columns that any file has, why a row is malformed, and
each row's file.

Spark takes the columns of one file for those of all: a CSV file of another column order would be
read wrongly, a Parquet file of other types fail in the middle of the run. So files of one head are
read together by their own columns, and then put together by name.
"""

import re
from urllib.parse import unquote

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)
from pyspark.sql.types import BooleanType, DataType, StringType, StructType, TimestampType

from pipeline.config import Files, ItemTable, Source
from pipeline.errors import PipelineError
from pipeline.log.columns import as_text, expression, quoted, type_of
from pipeline.log.headers import NoRowsError, broken_file, by_head, listed
from pipeline.log.source_paths import resolve
from pipeline.spark import cause

SOURCE_FILE, MALFORMED = "m2grl_source_file", "m2grl_malformed"
"""Columns beside the table's own: the file of a row, and the text of a row that its format cannot
read (a CSV row of too few or too many fields, a JSON line that is no object), null for the
others."""
_OWN_COLUMNS = (MALFORMED, SOURCE_FILE)
DEFAULTS: dict[str, dict[str, str]] = {
    # With column pruning nobody counts the fields: a row of too many would be cut in silence.
    "csv": {"header": "true", "escape": '"', "columnPruning": "false"},
    # As numbers, 9007199254740993 beside 1.5 would be rounded.
    "json": {"primitivesAsString": "true"},
    "parquet": {},
    "delta": {},
}
"""Options of Spark's readers, over which those of the configuration lie."""
_NO_TABLE = ("PATH_NOT_FOUND", "DELTA_TABLE_NOT_FOUND")
"""What Spark calls the error of a path at which there is no Delta table."""


def read_rows(spark: SparkSession, files: Files) -> DataFrame:
    """The rows of a table with all columns that any of its files has (null in the others),
    MALFORMED and SOURCE_FILE.

    Raises PipelineError naming the file that cannot be read or lacks a needed column, NoFileError
    where there is no file.
    """
    try:
        groups = [[files.path]] if files.format == "delta" else by_head(spark, files)
        if len(groups) == 1:
            return _selected(_rows(spark, files, None), files)
        frames = [_rows(spark, files, group) for group in groups]
        for group, frame in zip(groups, frames, strict=True):
            _check_columns(frame, files, group)
        return _selected(_together(frames), files)
    except (PySparkException, Py4JError) as error:
        condition = error.getCondition() if isinstance(error, PySparkException) else None
        if files.format == "delta" and condition in _NO_TABLE:
            # The other formats list their files before they are read.
            listed(spark, files)
        unreadable = (
            f"'{files.path}' cannot be read as {files.format}: {cause(error)}{_hint(error)}"
        )
        raise PipelineError(broken_file(error) or unreadable) from None


def source_column(frame: DataFrame, text: str, option: str, files: Files) -> Column:
    """A configured column or SQL expression over a table of `read_rows`. Raises PipelineError where
    the table has no such column."""
    return expression(frame, text, option, files.path, _OWN_COLUMNS)


def _rows(spark: SparkSession, files: Files, group: list[str] | None) -> DataFrame:
    """The rows of a group of files, by the columns of its first; of all files where `group` is
    None."""
    path, file = resolve(files.path), F.col("_metadata.file_path")
    if group is None:
        frame = _load(spark, files, path, path)
    else:
        # Spark writes the URI of a local file sometimes with one slash, sometimes with three.
        with_one_slash = [re.sub("^file:/+", "file:/", uri) for uri in group]
        # Spark opens no other file for this condition.
        frame = _load(spark, files, path, _path_of(group[0]))
        frame = frame.where(file.isin(*group, *with_one_slash))
    corrupt = _corrupt_column(files)
    unread = F.col(quoted(corrupt)) if corrupt in frame.columns else F.lit(None).cast("string")
    own = [F.col(quoted(name)) for name in frame.columns if name != corrupt]
    return frame.select(*own, unread.alias(MALFORMED), file.alias(SOURCE_FILE))


def _load(spark: SparkSession, files: Files, path: str, sample: str) -> DataFrame:
    """The rows at a path by the columns of a sample of its files; of CSV and JSON with the column
    of malformed rows."""
    if files.format in ("csv", "json"):
        corrupt = _corrupt_column(files)
        schema = _reader(spark, files).load(sample).schema
        fields = [field for field in schema if field.name != corrupt]
        if not fields:
            raise NoRowsError(f"'{files.path}' holds no row")
        # Only a reader that is told of the column fills it.
        with_corrupt = StructType(fields).add(corrupt, StringType())
        return _reader(spark, files).schema(with_corrupt).load(path)
    if sample != path:
        schema = _reader(spark, files).load(sample).schema
        return _reader(spark, files).schema(schema).load(path)
    return _reader(spark, files).load(path)


def _reader(spark: SparkSession, files: Files) -> DataFrameReader:
    options = DEFAULTS[files.format] | {"columnNameOfCorruptRecord": MALFORMED}
    return spark.read.format(files.format).options(**(options | files.options))


def _corrupt_column(files: Files) -> str:
    return files.option("columnNameOfCorruptRecord", MALFORMED)


def _path_of(uri: str) -> str:
    """A listed file's path as Spark's reader takes it: decoded, and with no sign of a pattern."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", unquote(uri))


def _check_columns(frame: DataFrame, files: Files, group: list[str]) -> None:
    """Raises PipelineError naming a file that lacks a needed column which other files have."""
    others = len(group) - 1
    table = unquote(group[0]) + (f" and {others} files like it" if others else "")
    for option, text in _needed(files).items():
        expression(frame, text, option, table, _OWN_COLUMNS)


def _needed(files: Files) -> dict[str, str]:
    """What every file must have: option -> column or expression."""
    needed = {"where": files.where} if files.where else {}
    if isinstance(files, Source):
        for name in ("user_id", "item_id", "timestamp"):
            needed[f"source.columns.{name}"] = getattr(files.columns, name)
    elif isinstance(files, ItemTable):
        needed["item_id of source.items"] = files.item_id
    return needed


def _together(frames: list[DataFrame]) -> DataFrame:
    """All rows with all columns by name, null where a frame lacks one. A column of several types
    becomes text."""
    types: dict[str, set[str]] = {}
    for frame in frames:
        for field in frame.schema:
            types.setdefault(field.name.lower(), set()).add(field.dataType.simpleString())
    mixed = {name for name, of_name in types.items() if len(of_name) > 1}
    union, *others = (_with_text(frame, mixed) for frame in frames)
    for other in others:
        union = union.unionByName(other, allowMissingColumns=True)
    return union


def _with_text(frame: DataFrame, mixed: set[str]) -> DataFrame:
    columns = []
    for field in frame.schema:
        column = F.col(quoted(field.name))
        if field.name.lower() in mixed:
            column = _as_text(column, field.dataType).alias(field.name)
        columns.append(column)
    return frame.select(*columns)


def _as_text(column: Column, type_: DataType) -> Column:
    """A value as a string; a moment with its zone, because the texts beside it may be of another
    than UTC."""
    if isinstance(type_, TimestampType):
        return F.concat(column.cast("string"), F.lit("Z"))
    return as_text(column, type_)


def _selected(frame: DataFrame, files: Files) -> DataFrame:
    """The rows that meet the table's condition, and malformed rows, of which nobody can say."""
    if files.where is not None:
        condition = source_column(frame, files.where, "where", files)
        type_ = type_of(frame, condition)
        if not isinstance(type_, BooleanType):
            raise PipelineError(
                f"where = '{files.where}' of {files.path} is no condition but a "
                f"{type_.simpleString()}"
            )
        frame = frame.where(F.col(MALFORMED).isNotNull() | condition)
    return frame


def _hint(error: Exception) -> str:
    if "NANOS" not in str(error):
        return ""
    conf = "spark.sql.legacy.parquet.nanosAsLong"
    return (
        f"; Spark reads times in nanoseconds as numbers where {conf} is true: with that, "
        'source.time.unit = "nanoseconds"'
    )
