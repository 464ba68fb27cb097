"""A log that arrives day by day: which rows a day's delivery holds, and which delivery a row came with.

Rows of a delivery that happened on an earlier day are late; they belong to their own date and to the delivery's batch, so that a day can be
delivered again in the place of what it brought before.
"""

import re
from datetime import date
from urllib.parse import quote

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.columns import expression
from pipeline.config import DAY_IN_PATH, Source
from pipeline.readers import MALFORMED, SOURCE_FILE
from pipeline.spark import PipelineError

_DIGITS = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}"}
_LETTERS = {"%Y": "yyyy", "%m": "MM", "%d": "dd"}
_GLOB = {"*": "[^/]*", "?": "[^/]"}


def source_of(source: Source, day: date | None) -> Source:
    """The source with the path and the condition of one delivery; of all of them where `day` is None.

    Raises PipelineError where a day is asked of a source that does not say how its days are told apart.
    """
    if day is not None and source.day is None and not DAY_IN_PATH.search(source.path):
        raise PipelineError(
            "--date needs a log that says which rows a day brought: put {date} into source.path (such as logs/{date}/*.csv), "
            "or name the column by source.day"
        )
    path = DAY_IN_PATH.sub(lambda found: _written(_form(found), day), source.path)
    if day is None or source.day is None:
        return source.model_copy(update={"path": path})
    where = f"({source.day}) = DATE'{day}'" + (f" AND ({source.where})" if source.where else "")
    return source.model_copy(update={"path": path, "where": where})


def _form(found: re.Match[str]) -> str:
    return found[1] or "%Y-%m-%d"


def _written(form: str, day: date | None) -> str:
    return re.sub("%[Ymd]", "*", form) if day is None else day.strftime(form)


def batch(raw: DataFrame, source: Source, day: date | None) -> Column:
    """The delivery that each row of `readers.read` came with: the `day` asked for, else as `source` tells by path or column; null where it
    does not, or tells no date. `source`: as configured, before `source_of`."""
    if day is not None:
        return F.lit(day)
    if source.day is not None:
        return expression(raw, source.day, "source.day", source.path, (MALFORMED, SOURCE_FILE)).try_cast("date")
    found = DAY_IN_PATH.search(source.path)
    if found is None:
        return F.lit(None).cast("date")
    form = _form(found)
    begin, end = source.path.rfind("/", 0, found.start()) + 1, source.path.find("/", found.end())
    before, after = source.path[begin : found.start()], source.path[found.end() : end if end >= 0 else None]
    digits = re.sub("%[Ymd]", lambda letter: _DIGITS[letter[0]], re.escape(form).replace(r"\%", "%"))
    pattern = f"/{_as_pattern(before)}({digits}){_as_pattern(after)}(?:/|$)"
    letters = re.sub("%[Ymd]|[A-Za-z]+", lambda part: _LETTERS.get(part[0]) or f"'{part[0]}'", form)
    return F.try_to_timestamp(F.regexp_extract(SOURCE_FILE, pattern, 1), F.lit(letters)).cast("date")


def _as_pattern(glob: str) -> str:
    """A part of a path with Spark's glob signs as a regular expression over a file's URI."""
    return "".join(map(_sign_as_pattern, re.findall(r"\{[^{}]*\}|\[[^\]]*\]|.", glob)))


def _sign_as_pattern(sign: str) -> str:
    if sign.startswith("{"):
        return f"(?:{'|'.join(map(_as_pattern, sign[1:-1].split(',')))})"
    return sign if sign.startswith("[") else _GLOB.get(sign) or re.escape(quote(sign, safe="!$&'()+,;=:@~"))
