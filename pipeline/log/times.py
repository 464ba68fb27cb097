"""Written times -> UTC timestamps: Unix times, texts with or without a zone, patterns."""

import re

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import Time
from pipeline.errors import PipelineError
from pipeline.spark import cause

_FACTORS = {"seconds": 1_000_000, "milliseconds": 1000, "microseconds": 1}
"""Unit -> microseconds."""
_ZONE = (
    r"\d:\d{2}(:\d{2}([.,]\d+)?)?\s*"
    r"(Z|(?![AaPp][Mm]$)[A-Za-z]{2,}(/[A-Za-z_]+)*|[+-]\d{1,2}(:?\d{2})?)$"
)
"""How a written time ends that names its zone or offset."""
_ZONE_LETTERS = r"[VzOXxZ](?=(?:[^']*'[^']*')*[^']*$)"
"""Letters of a Spark datetime pattern, outside quotes, that stand for a zone or offset."""
_FAR = ("0001-01-03 00:00:00", "9999-12-29 00:00:00")
"""Times beyond these may leave what Spark can shift to another zone."""
_WHOLE_NUMBERS = ("byte", "short", "integer", "long")


def check_pattern(raw: DataFrame, time: Time) -> None:
    """Raises PipelineError for a pattern that is none."""
    if time.unit != "pattern":
        return
    written = F.try_to_timestamp(F.lit("?"), F.lit(time.pattern))
    try:
        # A frame of one literal starts no job.
        raw.sparkSession.range(1).select(written).collect()
    except (PySparkException, Py4JError) as error:
        raise PipelineError(
            f"source.time.pattern = '{time.pattern}' is no datetime pattern of Spark: "
            f"{cause(error)}"
        ) from None


def to_timestamp(column: Column, type_name: str, time: Time) -> Column:
    """A written time as a UTC timestamp; null where it cannot be read.

    `type_name` is Spark's type of the column.
    """
    if time.unit not in ("timestamp", "pattern"):
        return F.timestamp_micros(_micros(column, type_name, time.unit))
    text = column.cast("string")
    if time.unit == "pattern":
        read = F.try_to_timestamp(text, F.lit(time.pattern))
    else:
        read = _cast_to_timestamp(column, type_name)
    # A timestamp of the source's own is a moment already, whatever the zone.
    if time.zone == "UTC" or type_name == "timestamp":
        return read
    if time.unit == "pattern":
        names_zone = F.lit(re.search(_ZONE_LETTERS, time.pattern) is not None)
    elif type_name == "timestamp_ntz":
        names_zone = F.lit(False)
    else:
        names_zone = text.rlike(_ZONE)
    stands = names_zone | ~read.between(*_FAR)
    shifted = F.to_utc_timestamp(read, time.zone)
    return F.when(stands, read).otherwise(shifted)


def _micros(column: Column, type_name: str, unit: str) -> Column:
    """A Unix time as whole microseconds; null where it is no number or too large for them."""
    nanoseconds = unit == "nanoseconds"
    if type_name in _WHOLE_NUMBERS:
        number = column.cast("bigint")
        if nanoseconds:
            return F.call_function("div", number, F.lit(1000))
        return F.try_multiply(number, F.lit(_FACTORS[unit]))
    # Decimals, because a double has no room for a time of today in microseconds and a fraction.
    decimal = column.try_cast("decimal(38,6)")
    if nanoseconds:
        scaled = F.try_divide(decimal, F.lit(1000))
    else:
        scaled = F.try_multiply(decimal, F.lit(_FACTORS[unit]))
    return scaled.try_cast("bigint")


def _cast_to_timestamp(column: Column, type_name: str) -> Column:
    """A column as a timestamp; a text only where it has a date, because Spark takes a time of day
    alone for one of today."""
    read = column.try_cast("timestamp")
    if type_name != "string":
        return read
    colon, dash = F.instr(column, ":"), F.instr(column, "-")
    no_clock = colon == 0
    date_first = (dash > 0) & (dash < colon)
    return F.when(no_clock | date_first, read)
