"""Configured columns: a column of the source or a Spark SQL expression over its columns, and values
of any type as text."""

import re
from collections.abc import Collection

from pyspark.errors import AnalysisException
from pyspark.logger import PySparkLogger
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)
from pyspark.sql.types import (
    ArrayType,
    DataType,
    DecimalType,
    DoubleType,
    FloatType,
    MapType,
    StringType,
    StructType,
)

from pipeline.config import Source
from pipeline.errors import PipelineError

# PySpark writes what is wrong with a text to standard error, with its stack. Here that is an
# answer, or told in a message.
PySparkLogger.getLogger("SQLQueryContextLogger").disabled = True

_WRITTEN_FLOAT = r"^[+-]?\d+\.0*$"
_WRITTEN_EXPONENT = r"^[+-]?\d+(\.\d*)?[eE][+]?\d+$"


def expression(
    frame: DataFrame, text: str, option: str, table: str, hidden: Collection[str] = ()
) -> Column:
    """A configured column or SQL expression. A text that is a column's whole name means that
    column, whatever signs are in it.

    Raises PipelineError naming the option, the table and the columns (but the hidden ones) where
    the frame has no such column, or it is no SQL expression of one value a row.
    """
    try:
        column = _named(frame, text)
        # Beside other columns, so that an aggregate is an error here.
        beside_others = frame.select("*", column)
        if len(beside_others.columns) == len(frame.columns) + 1:
            return column
        what = "it is several columns."
    except AnalysisException as error:
        what = str(error.getMessage()).splitlines()[0]
    columns = ", ".join(name for name in frame.columns if name not in hidden)
    raise PipelineError(
        f"{option} = '{text}' cannot be read from {table}: {what} The columns are: {columns}"
    )


def missing(frame: DataFrame, text: str) -> list[str]:
    """The parts of the name of a column that a configured text names and the frame lacks, its field
    last (["props", "brand"]); none where it lacks none."""
    try:
        frame.select(_named(frame, text))
        return []
    except AnalysisException as error:
        if not str(error.getCondition()).startswith("UNRESOLVED_COLUMN"):
            return []
        parameters = error.getMessageParameters() or {}
        # Each part stands in backticks, a backtick inside it twice.
        parts = re.findall("`((?:[^`]|``)+)`", parameters.get("objectName", ""))
        return [part.replace("``", "`") for part in parts]


def _named(frame: DataFrame, text: str) -> Column:
    return F.col(quoted(text)) if text in frame.columns else F.expr(text)


def quoted(name: str) -> str:
    """A column's name as SQL writes it."""
    inside = name.replace("`", "``")
    return f"`{inside}`"


def type_of(frame: DataFrame, column: Column) -> DataType:
    """Spark's type of a column over a frame."""
    return frame.select(column).schema[0].dataType


def is_compound(type_: DataType) -> bool:
    """Whether a value of the type holds several values."""
    return isinstance(type_, ArrayType | MapType | StructType)


def as_text(column: Column, type_: DataType, whole_numbers: bool = False) -> Column:
    """A value of any type as a string.

    A whole number of a fractional type has neither point nor exponent (266079.0: "266079"); with
    `whole_numbers` neither has a text that writes one so. NaN, which pandas writes for a missing
    number, and the infinities are null.
    """
    as_written = column.cast("string")
    if isinstance(type_, DoubleType | FloatType):
        size = F.abs(column)
        whole = (column == F.floor(column)) & (size < 2.0**63)
        finite = ~F.isnan(column) & (size != float("inf"))
        without_point = column.cast("bigint").cast("string")
        return F.when(finite, F.when(whole, without_point).otherwise(as_written))
    if isinstance(type_, DecimalType) and type_.scale > 0:
        floor = F.floor(column)
        return F.when(column == floor, floor.cast("string")).otherwise(as_written)
    if isinstance(type_, StringType) and whole_numbers:
        return _without_point(column)
    return as_written


def identifier(column: Column, type_: DataType, source: Source) -> Column:
    """An id as a string, as written; null where it means "none"."""
    text = as_text(column, type_, source.whole_numbers)
    is_none = F.trim(text) == "" if isinstance(type_, StringType) else F.lit(False)
    if source.null_ids:
        is_none = is_none | text.isin(*source.null_ids)
    return F.when(~is_none, text)


def _without_point(text: Column) -> Column:
    """266079.0 and 2.66079E5 as 266079, digit for digit; any other text as it is."""
    number = text.try_cast("decimal(38,10)")
    floor = F.floor(number)
    is_float = text.rlike(_WRITTEN_FLOAT)
    is_whole_exponent = text.rlike(_WRITTEN_EXPONENT) & (number == floor)
    before_point = F.substring_index(text, ".", 1)
    written = F.when(is_float, before_point).when(is_whole_exponent, floor.cast("string"))
    return written.otherwise(text)
