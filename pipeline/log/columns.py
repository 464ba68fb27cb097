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

from pipeline.errors import PipelineError

# PySpark writes what is wrong with a text to standard error, with its stack. Here that is an
# answer, or told in a message.
PySparkLogger.getLogger("SQLQueryContextLogger").disabled = True

_WRITTEN_FLOAT = r"^[+-]?\d+\.0*$"
_WRITTEN_EXPONENT = r"^[+-]?\d+(\.\d*)?[eE][+]?\d+$"


def expression(
    frame: DataFrame, text: str, option: str, place: str, hidden: Collection[str] = ()
) -> Column:
    """A configured column or SQL expression. A text that is a column's whole name means that
    column, whatever signs are in it.

    Raises PipelineError naming the option, the place and the columns (but the hidden ones) where
    the frame has no such column, or it is no SQL expression of one value a row.
    """
    try:
        column = F.col(quoted(text)) if text in frame.columns else F.expr(text)
        # Beside other columns, so that an aggregate is an error here.
        if len(frame.select("*", column).columns) == len(frame.columns) + 1:
            return column
        what = "it is several columns."
    except AnalysisException as error:
        what = str(error.getMessage()).splitlines()[0]
    columns = ", ".join(name for name in frame.columns if name not in hidden)
    raise PipelineError(
        f"{option} = '{text}' cannot be read from {place}: {what} The columns are: {columns}"
    )


def missing(frame: DataFrame, text: str) -> list[str]:
    """The parts of the name of a column that a configured text names and the frame lacks, its field
    last (["props", "brand"]); none where it lacks none."""
    try:
        frame.select(F.col(quoted(text)) if text in frame.columns else F.expr(text))
        return []
    except AnalysisException as error:
        unresolved = str(error.getCondition()).startswith("UNRESOLVED_COLUMN")
        name = (error.getMessageParameters() or {}).get("objectName", "") if unresolved else ""
        return [part.replace("``", "`") for part in re.findall("`((?:[^`]|``)+)`", name)]


def quoted(name: str) -> str:
    """A column's name as SQL writes it."""
    return f"`{name.replace('`', '``')}`"


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
    if isinstance(type_, DoubleType | FloatType):
        whole = (column == F.floor(column)) & (F.abs(column) < 2.0**63)
        known = ~F.isnan(column) & (F.abs(column) != float("inf"))
        return F.when(
            known,
            F.when(whole, column.cast("bigint").cast("string")).otherwise(column.cast("string")),
        )
    if isinstance(type_, DecimalType) and type_.scale > 0:
        return F.when(column == F.floor(column), F.floor(column).cast("string")).otherwise(
            column.cast("string")
        )
    if isinstance(type_, StringType) and whole_numbers:
        return _without_point(column)
    return column.cast("string")


def _without_point(text: Column) -> Column:
    """266079.0 and 2.66079E5 as 266079, digit for digit; any other text as it is."""
    number = text.try_cast("decimal(38,10)")
    return (
        F.when(text.rlike(_WRITTEN_FLOAT), F.substring_index(text, ".", 1))
        .when(
            text.rlike(_WRITTEN_EXPONENT) & (number == F.floor(number)),
            F.floor(number).cast("string"),
        )
        .otherwise(text)
    )
