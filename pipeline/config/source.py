"""[source] The click log and its item tables: where they lie, and which column is which field.

Wherever a field names a column of the source it may be any Spark SQL expression over the source's
columns, of which a bare column name is the simplest.
"""

import re
import zoneinfo
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.reader_options import READER_OPTIONS
from pipeline.config.section import Name, Section, differ_in_more_than_case, in_utc, near

DAY_IN_PATH = re.compile(r"(?<!\$)\{date(?::([^{}]*))?\}")
"""What stands for a day in `source.path`: {date} as 2024-12-31, {date:%Y/%m/%d} as 2024/12/31."""

# fmt: off
RESERVED = frozenset({
    "user_id", "item_id", "timestamp", "date", "stay_seconds", "event_type", "app_session_id",
    "app_open", "app_close", "value", "duplicate", "dropped", "crowded", "run", "starts_run",
    "app", "app_group", "opened", "closed", "apart", "starts", "first", "piece", "number",
    "length", "position", "session_id", "batch", "session_start", "session_position", "part",
    "row", "reason", "flaw", "title", "weight", "values", "tie", "clicks", "first_date", "last",
    "begin", "session_piece", "until",
})
# fmt: on
"""Columns of the pipeline's own, beside which the attributes of events stand."""


class Time(Section):
    """How the source writes times."""

    unit: Literal[
        "timestamp", "pattern", "seconds", "milliseconds", "microseconds", "nanoseconds"
    ] = "timestamp"
    """timestamp: the column is a timestamp (or a text in ISO 8601); pattern: a text read with
    `pattern`; else a Unix time in that unit."""
    pattern: str = ""
    """Spark datetime pattern, for unit = "pattern"."""
    zone: str = "UTC"
    """Time zone of times that name none."""
    earliest: datetime = datetime(1990, 1, 1, tzinfo=UTC)
    """Times before this cannot be (UTC where no offset is given): a Unix time in another unit, or 0
    for unknown."""
    latest: datetime | None = None
    """Times at or after this cannot be; none: a day after the run begins."""

    @field_validator("zone")
    @classmethod
    def _zone_is_known(cls, zone: str) -> str:
        zones = zoneinfo.available_timezones()
        if zone not in zones:
            raise ValueError(f"there is no time zone '{zone}'{near(zone, zones)}")
        return zone

    @field_validator("earliest", "latest")
    @classmethod
    def _bounds_are_utc(cls, bound: datetime | None) -> datetime | None:
        return None if bound is None else in_utc(bound)

    @model_validator(mode="after")
    def _pattern_is_given(self) -> "Time":
        if (self.unit == "pattern") != bool(self.pattern):
            raise ValueError('`pattern` belongs to unit = "pattern", and is needed there')
        if self.latest is not None and self.earliest >= self.latest:
            raise ValueError(
                f"no time lies between `earliest` = {self.earliest} and `latest` = {self.latest}"
            )
        return self


class Files(Section):
    """Where a table of the source lies and how to read it."""

    path: str
    """File, folder, glob, or URI (s3a, hdfs, abfss, file). `${NAME}` and `${NAME:-default}` stand
    for environment variables, `package:NAME/...` for a file inside an installed Python package; in
    the path of the log, {date} for the day that brought the files. A relative path is taken from
    the working directory."""
    format: Literal["csv", "json", "parquet", "delta"]
    options: dict[str, str] = Field(default_factory=dict)
    """Options of Spark's reader for this format, which win over these: a CSV has a header row; the
    values of CSV and JSON are read as text. Fields with line breaks need multiLine = "true"; then
    each file is read by one task. Without it the first part of such a row is rejected, and the
    second may pass for an event."""
    where: str | None = None
    """SQL condition; rows that do not meet it are no part of the table, and are not counted."""

    def option(self, name: str, default: str) -> str:
        """The value of an option of Spark's reader; as in Spark, its name may be in upper or lower
        case."""
        values = (value for key, value in self.options.items() if key.lower() == name.lower())
        return next(values, default)

    @model_validator(mode="after")
    def _options_are_known(self) -> "Files":
        readers_own = READER_OPTIONS[self.format]
        lower_case = {option.lower() for option in readers_own}
        for name in self.options:
            # With a dot: a setting of Hadoop's file systems, of which Spark does not know the names
            # either.
            of_hadoop = "." in name
            if not of_hadoop and name.lower() not in lower_case:
                raise ValueError(
                    f"`options`: Spark's reader of {self.format} knows no "
                    f"'{name}'{near(name, readers_own)}"
                )
        return self


class EventColumns(Section):
    """Which columns (or SQL expressions) of the log are the fields of an event."""

    user_id: str
    item_id: str
    timestamp: str
    stay_seconds: str | None = None
    """Seconds spent on the item after the click."""
    event_type: str | None = None
    """What happened (view, cart, buy...); `event_types` says which count."""
    app_session_id: str | None = None
    """The log's own session id: it splits like an app open and close."""
    app_open: str | None = None
    """Time the app was opened, in the same format as the timestamp."""
    app_close: str | None = None
    """Time the app was closed; where it is missing, the last click counts."""
    value: str | None = None
    """A number that rates the event (MovieLens: the rating); `clean.minimum_value` filters by
    it."""


class ItemTable(Files):
    """A table of item attributes. Several tables may add attributes to the same items; an item may
    have several rows."""

    item_id: str
    title: str | None = None
    """Column or expression with a readable name."""
    attributes: dict[Name, str] = Field(default_factory=dict)
    """Attribute name -> column or expression. An array column gives several values."""


class Source(Files):
    """[source] The click log."""

    columns: EventColumns
    time: Time = Time()
    day: str | None = None
    """Column or SQL expression with the day that brought a row, such as the folder column dt, for
    `--date`. Where each day has files of its own, write {date} or {date:%Y/%m/%d} into `path`
    instead. Rows may be of earlier days than the one that brought them."""
    attributes: dict[Name, str] = Field(default_factory=dict)
    """Attribute name -> column or expression, for attributes that stand on each event."""
    event_types: tuple[str, ...] = ()
    """Event types that count as clicks; empty: all. The others still end a stay."""
    open_types: tuple[str, ...] = ()
    """Event types of rows that say that the app was opened; such a row needs no item. They give the
    user's clicks their app_open."""
    close_types: tuple[str, ...] = ()
    """The same for the app's close."""
    null_ids: tuple[str, ...] = ()
    """Users and items that mean "none", such as "0" or "NULL". An empty id and one of spaces alone
    mean it anyway."""
    whole_numbers: bool = False
    """Texts like 266079.0 and 2.66079E5 in ids, event types and attributes are whole numbers
    written as floats: 266079. Columns that are floats by their type are read so anyway."""
    longest_stay_seconds: float = Field(default=86400.0, gt=0)
    """A stay the log gives that is negative, longer than this, or no number cannot be: it is
    unknown, and counted."""
    max_rejected_share: float = Field(default=0.01, ge=0, le=1)
    """A run stops before anything is published where a larger share of the raw rows is rejected.
    Rows of item tables that say nothing are counted by their reason, and stop no run."""
    items: tuple[ItemTable, ...] = ()
    """[[source.items]] Tables of item attributes and titles."""

    @model_validator(mode="after")
    def _day_is_told_once(self) -> "Source":
        days_in_path = list(DAY_IN_PATH.finditer(self.path))
        if len(days_in_path) + (self.day is not None) > 1:
            raise ValueError(
                "the day that brought a row is told once: by one {date} in `path`, or by `day`"
            )
        forms = [day[1] for day in days_in_path if day[1] is not None]
        for form in forms:
            letters = re.findall("%.", form)
            if sorted(letters) != ["%Y", "%d", "%m"]:
                raise ValueError(
                    f"{{date:{form}}} in `path` must hold %Y, %m and %d once each, and no other %"
                )
        return self

    @model_validator(mode="after")
    def _attributes_have_names_of_their_own(self) -> "Source":
        taken = {name for name in self.attributes if name.lower() in RESERVED}
        if taken:
            raise ValueError(
                f"attributes stand beside the pipeline's own columns: {sorted(taken)} must be "
                "called otherwise"
            )
        differ_in_more_than_case("attributes", self.attributes)
        return self

    @model_validator(mode="after")
    def _event_types_can_be_told(self) -> "Source":
        options = ("event_types", "open_types", "close_types")
        kinds = {name: set(getattr(self, name)) for name in options}
        for name, types in kinds.items():
            if types and self.columns.event_type is None:
                raise ValueError(f"`{name}` needs `columns.event_type`")
            for other, other_types in kinds.items():
                both = sorted(types & other_types)
                if other != name and both:
                    raise ValueError(f"{both} cannot be both in `{name}` and in `{other}`")
        app_in_rows = self.open_types or self.close_types
        app_in_columns = self.columns.app_open or self.columns.app_close
        if app_in_rows and app_in_columns:
            raise ValueError(
                "the app's times come from rows of `open_types` and `close_types` or from "
                "`columns.app_open` and `app_close`"
            )
        return self
