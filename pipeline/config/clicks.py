"""[clean], [sessions] and [split] Which events are clicks, how they form sessions, and what is held
out."""

from datetime import datetime
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.section import Section, in_utc


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


class Sessions(Section):
    """[sessions] Session split and merge (paper section 3.1)."""

    idle_gap_seconds: float = Field(default=3600.0, gt=0)
    """A gap of this long or longer between consecutive clicks splits a session."""
    merge_gap_seconds: float = Field(default=1800.0, ge=1e-6)
    """Two consecutive app sessions less than this apart are merged. At least a microsecond, the
    unit of times: an app session is not apart from itself, nor from one that it overlaps."""
    maximum_length: int | None = Field(default=None, ge=2)
    """Sessions with more clicks are halved until none has (MovieLens: 50)."""


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
