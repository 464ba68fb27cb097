"""What the pipeline can be told: the sections [source] to [split] of a configuration file.

Every field carries its meaning, which is also the text of `--help`. Wherever a field names a column
of the source it may be any Spark SQL expression over the source's columns, of which a bare column
name is the simplest.
"""

import difflib
import hashlib
import json
import re
import zoneinfo
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline import reader_options

ITEM_VIEW = "item"
"""Name of the instance view: the one whose nodes are the items themselves."""


DAY_IN_PATH = re.compile(r"(?<!\$)\{date(?::([^{}]*))?\}")
"""What stands for a day in `source.path`: {date} as 2024-12-31, {date:%Y/%m/%d} as 2024/12/31."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
"""Names of views, relations and attributes become names of columns and folders: letters, digits and
underscores."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]

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
VIEW_COLUMNS = ("node", "nodes", "row", "previous", "values")
"""Beginnings of the names of columns that the pipeline adds for each view: node_<view>..."""


class Section(BaseModel):
    """A frozen part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def _is_set(self, name: str) -> bool:
        """Whether a setting is another than its default. That it was written is no matter:
        manifests write all of them."""
        return bool(
            getattr(self, name)
            != type(self).model_fields[name].get_default(call_default_factory=True)
        )


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
        if zone not in zoneinfo.available_timezones():
            raise ValueError(
                f"there is no time zone '{zone}'{near(zone, zoneinfo.available_timezones())}"
            )
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
        return next(
            (value for key, value in self.options.items() if key.lower() == name.lower()), default
        )

    @model_validator(mode="after")
    def _options_are_known(self) -> "Files":
        known = reader_options.KNOWN[self.format]
        for name in self.options:
            # With a dot: a setting of Hadoop's file systems, of which Spark does not know the names
            # either.
            if "." not in name and name.lower() not in map(str.lower, known):
                raise ValueError(
                    f"`options`: Spark's reader of {self.format} knows no "
                    f"'{name}'{near(name, known)}"
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
        found = list(DAY_IN_PATH.finditer(self.path))
        if len(found) + (self.day is not None) > 1:
            raise ValueError(
                "the day that brought a row is told once: by one {date} in `path`, or by `day`"
            )
        for form in (match[1] for match in found if match[1] is not None):
            if sorted(re.findall("%.", form)) != ["%Y", "%d", "%m"]:
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
        _differ_in_more_than_case("attributes", self.attributes)
        return self

    @model_validator(mode="after")
    def _event_types_can_be_told(self) -> "Source":
        kinds = {
            name: set(getattr(self, name)) for name in ("event_types", "open_types", "close_types")
        }
        for name, types in kinds.items():
            if types and self.columns.event_type is None:
                raise ValueError(f"`{name}` needs `columns.event_type`")
            for other in kinds:
                if other != name and types & kinds[other]:
                    raise ValueError(
                        f"{sorted(types & kinds[other])} cannot be both in `{name}` and in "
                        f"`{other}`"
                    )
        if (self.open_types or self.close_types) and (
            self.columns.app_open or self.columns.app_close
        ):
            raise ValueError(
                "the app's times come from rows of `open_types` and `close_types` or from "
                "`columns.app_open` and `app_close`"
            )
        return self


class Clean(Section):
    """[clean] The click filter (paper section 3.1, "Data Clean")."""

    stay: Literal["given", "derived", "absent"] = "absent"
    """given: `columns.stay_seconds`; derived: time to the user's next event on a different item, or
    to the app's close; absent: no filter."""
    minimum_stay_seconds: float = Field(default=2.0, ge=0)
    """Clicks with a known stay below this are dropped; exactly this much stays."""
    maximum_clicks_per_day: int | None = Field(default=None, ge=1)
    """Users with more events of the types that count on one day (UTC) are machines, not people:
    their events of that day are dropped. Exact duplicates count once."""
    minimum_value: float | None = None
    """Events whose `columns.value` is below this are dropped; exactly this much stays (MovieLens:
    3)."""

    @model_validator(mode="after")
    def _a_stay_is_known(self) -> "Clean":
        if self.stay == "absent" and self._is_set("minimum_stay_seconds"):
            raise ValueError(
                '`minimum_stay_seconds` has no effect with stay = "absent"; set `stay` to '
                '"given" or "derived"'
            )
        return self


class LakeLayout(Section):
    """[lake] How the Delta tables lie on the disk."""

    partition_by_date: bool = True
    """events, clean and sessions have a folder for each date, so that a day can be replaced without
    reading the others; false for a small log of many years, in which those folders would be many
    and nearly empty. A change takes effect with the next run over the whole log."""


class Sessions(Section):
    """[sessions] Session split and merge (paper section 3.1)."""

    idle_gap_seconds: float = Field(default=3600.0, gt=0)
    """A gap of this long or longer between consecutive clicks splits a session."""
    merge_gap_seconds: float = Field(default=1800.0, ge=1e-6)
    """Two consecutive app sessions less than this apart are merged. At least a microsecond, the
    unit of times: an app session is not apart from itself, nor from one that it overlaps."""
    maximum_length: int | None = Field(default=None, ge=2)
    """Sessions with more clicks are halved until none has (MovieLens: 50)."""


class Walks(Section):
    """[views.NAME.walks] Random walks over a view's graph, for sequences = "walks".

    p = q = 1 is DeepWalk: every node starts the same number of walks, and a step takes an edge in
    proportion to its weight. Other p and q are node2vec: the weight of an edge back to the node
    before counts 1/p of its own, that of one to a neighbour of the node before all of it, that of
    any other 1/q.
    """

    walks_per_node: int = Field(default=10, ge=1, le=10_000)
    """Walks that start from each node (node2vec's experiments: 10, DeepWalk's: 80)."""
    length: int = Field(default=40, ge=2, le=10_000)
    """Nodes of a walk (DeepWalk's experiments: 40, node2vec's: 80). With `directed`, a walk ends
    early at a node that no edge leaves."""
    p: float = Field(default=1.0, ge=0.01, le=100)
    """node2vec's return parameter: below 1, a walk goes back more often."""
    q: float = Field(default=1.0, ge=0.01, le=100)
    """node2vec's in-out parameter: below 1, a walk leaves the neighbourhood more often. A step
    takes up to max(q, 1/q) draws on average."""
    weighted: bool = True
    """Steps by edge weight; false: every edge weighs 1."""
    broadcast_edges: int = Field(default=10_000_000, ge=0)
    """A graph of at most this many edges is sent whole to every Python worker, 32 bytes an edge; a
    larger one is walked by joins. The walks are the same."""


class View(Section):
    """[views.NAME] One graph and its nodes."""

    attribute: str | None = None
    """Attribute of the item whose values are the nodes; none: the items themselves (the instance
    view)."""
    null_values: tuple[str, ...] = ("",)
    """Values that mean "unknown": they are null, never a node."""
    minimum_count: int = Field(default=1, ge=1)
    """Nodes clicked less often in the training part are left out."""
    top: int | None = Field(default=None, ge=1)
    """Only this many most clicked nodes are kept."""
    several: Literal["draw", "first"] = "draw"
    """Which value an occurrence takes where an item has several: one drawn by weight, or the
    heaviest."""
    sequences: Literal["sessions", "walks", "edges"] = "sessions"
    """What trains the view (paper section 3.1, "Node sequence sampling"): users' sessions, random
    walks over its graph (DeepWalk, node2vec), or the graph's edges, each as often as it weighs
    (LINE)."""
    walks: Walks = Walks()
    directed: bool = False
    """Walks and edges follow the graph in click order only; false: both ways, an edge's weight
    being the sum of both directions."""

    @model_validator(mode="after")
    def _graph_is_asked_for(self) -> "View":
        if self.sequences != "walks" and self._is_set("walks"):
            raise ValueError(
                f'`walks` has no effect with sequences = "{self.sequences}"; set `sequences` to '
                '"walks"'
            )
        if self.sequences == "sessions" and self.directed:
            raise ValueError(
                '`directed` has no effect with sequences = "sessions"; set `sequences` to '
                '"walks" or "edges"'
            )
        return self

    @model_validator(mode="after")
    def _values_are_of_an_attribute(self) -> "View":
        for name in ("null_values", "several"):
            if self.attribute is None and self._is_set(name):
                told = (
                    "; `source.null_ids` says which items mean none"
                    if name == "null_values"
                    else ""
                )
                raise ValueError(f"`{name}` has no effect without `attribute`{told}")
        return self


class Relation(Section):
    """[relations.NAME] Links between the items and the values of another view."""

    view: str
    """The view whose nodes are linked to the items."""
    rows: Literal["links", "clicks"] = "links"
    """links: each item is a training row once, with all its values; clicks: once per click of the
    training part."""


class Shards(Section):
    """[shards] The training data."""

    window: int = Field(default=9, ge=1)
    """Context window c: pairs of nodes at most this far apart (paper eq. 1)."""
    encodings: tuple[Literal["windows", "pairs"], ...] = Field(
        default=("windows", "pairs"), min_length=1
    )
    """windows: a session a row, what training reads; pairs: a centre with its contexts a row."""
    files: int = Field(default=8, ge=1)
    """Files per stream."""
    row_group_rows: int = Field(default=16384, ge=1)


class Split(Section):
    """[split] What is held out for evaluation, before anything is learned."""

    kind: Literal["none", "time", "last_items"] = "none"
    """time: training is what was clicked before `cut`, test the sessions that start at it or later;
    last_items: the last `items` clicks of each user are the test."""
    cut: datetime | None = None
    """First moment of the test part (UTC where no offset is given)."""
    hours: float | None = Field(default=None, gt=0)
    """Length of the test part; none: to the end of the log. Sessions after it are used for
    nothing."""
    items: int = Field(default=3, ge=1)
    minimum_items: int = Field(default=8, ge=2)
    """Users with fewer clicks are not split: all theirs is training."""

    @model_validator(mode="after")
    def _cut_is_given(self) -> "Split":
        if (self.kind == "time") != (self.cut is not None):
            raise ValueError('`cut` belongs to kind = "time", and is needed there')
        if self.kind != "time" and self.hours is not None:
            raise ValueError(
                f'`hours` has no effect with kind = "{self.kind}"; it belongs to kind = "time"'
            )
        for name in ("items", "minimum_items"):
            if self.kind != "last_items" and self._is_set(name):
                raise ValueError(
                    f'`{name}` has no effect with kind = "{self.kind}"; it belongs to kind = '
                    '"last_items"'
                )
        if self.items >= self.minimum_items:
            raise ValueError(
                f"`items` = {self.items} of `minimum_items` = {self.minimum_items} would leave "
                "users no training part"
            )
        return self

    @field_validator("cut")
    @classmethod
    def _cut_is_utc(cls, cut: datetime | None) -> datetime | None:
        return None if cut is None else in_utc(cut)


class PipelineConfig(Section):
    """All that the pipeline can be told."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Name of the project, also of its folder."""
    seed: Seed = 1
    """Seed of every random draw."""
    source: Source
    clean: Clean = Clean()
    lake: LakeLayout = LakeLayout()
    sessions: Sessions = Sessions()
    views: dict[Name, View]
    relations: dict[Name, Relation] = Field(default_factory=dict)
    shards: Shards = Shards()
    split: Split = Split()

    @model_validator(mode="after")
    def _views_name_attributes(self) -> "PipelineConfig":
        if ITEM_VIEW not in self.views or self.views[ITEM_VIEW].attribute is not None:
            raise ValueError(
                f"[views.{ITEM_VIEW}] is the instance view: it is needed, and has no attribute"
            )
        attributes = {
            *self.source.attributes,
            *(name for table in self.source.items for name in table.attributes),
        }
        for name, view in self.views.items():
            if name != ITEM_VIEW and view.attribute not in attributes:
                known = (
                    f"the source has {sorted(attributes)}{near(str(view.attribute), attributes)}"
                )
                raise ValueError(f"views.{name}.attribute is '{view.attribute}'; {known}")
        return self

    @model_validator(mode="after")
    def _columns_of_views_are_free(self) -> "PipelineConfig":
        _differ_in_more_than_case("views", self.views)
        columns = {f"{kind}_{view}".lower() for view in self.views for kind in VIEW_COLUMNS}
        taken = sorted(name for name in self.source.attributes if name.lower() in columns)
        if taken:
            raise ValueError(
                f"source.attributes: {taken} would hide the columns of the views of that name; "
                "call them otherwise"
            )
        return self

    @model_validator(mode="after")
    def _filters_have_their_columns(self) -> "PipelineConfig":
        columns = self.source.columns
        if (self.clean.stay == "given") != (columns.stay_seconds is not None):
            raise ValueError('clean.stay = "given" and source.columns.stay_seconds need each other')
        if self.clean.minimum_value is not None and columns.value is None:
            raise ValueError("clean.minimum_value needs source.columns.value")
        told = (
            columns.app_session_id,
            columns.app_open,
            columns.app_close,
            *self.source.open_types,
            *self.source.close_types,
        )
        if not any(told) and self.sessions._is_set("merge_gap_seconds"):
            raise ValueError(
                "sessions.merge_gap_seconds has no effect where the log tells of no app "
                "session (source.columns.app_open ...)"
            )
        return self

    @model_validator(mode="after")
    def _relations_name_views(self) -> "PipelineConfig":
        values = set(self.views) - {ITEM_VIEW}
        for name, relation in self.relations.items():
            if relation.view not in values:
                known = f"the value views are {sorted(values)}{near(relation.view, values)}"
                raise ValueError(f"relations.{name}.view is '{relation.view}'; {known}")
            if name in self.views:
                raise ValueError(
                    f"'{name}' names a view and a relation: tasks need names of their own"
                )
        return self


def fingerprint(values: Any) -> str:
    """Stands for values of a configuration; hex SHA-256."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def in_utc(time: datetime) -> datetime:
    """A time without a zone is UTC: Spark would read it in this machine's zone."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _differ_in_more_than_case(what: str, names: Iterable[str]) -> None:
    """Raises ValueError where two names are one to Spark, which does not tell upper case from lower
    case in names of columns."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(
                f"{what}: '{other}' and '{name}' differ in case only; columns of both names "
                "cannot stand in one table"
            )


def near(word: str, valid: Iterable[str]) -> str:
    """Asks for the valid word that is nearest to a wrong one, where one is near."""
    found = difflib.get_close_matches(word, sorted(valid), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""
