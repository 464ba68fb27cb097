"""The whole configuration of the pipeline, and what its sections ask of each other."""

import hashlib
import json
from typing import Any

from pydantic import Field, model_validator

from pipeline.config.clicks import Clean, Sessions, Split
from pipeline.config.output import LakeLayout, Shards
from pipeline.config.section import Name, Section, Seed, differ_in_more_than_case, near
from pipeline.config.source import Source
from pipeline.config.views import ITEM_VIEW, VIEW_COLUMNS, Relation, View


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
        attributes = set(self.source.attributes)
        for table in self.source.items:
            attributes |= set(table.attributes)
        for name, view in self.views.items():
            if name != ITEM_VIEW and view.attribute not in attributes:
                nearest = near(str(view.attribute), attributes)
                raise ValueError(
                    f"views.{name}.attribute is '{view.attribute}'; "
                    f"the source has {sorted(attributes)}{nearest}"
                )
        return self

    @model_validator(mode="after")
    def _columns_of_views_are_free(self) -> "PipelineConfig":
        differ_in_more_than_case("views", self.views)
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
        app_sessions = (
            columns.app_session_id,
            columns.app_open,
            columns.app_close,
            *self.source.open_types,
            *self.source.close_types,
        )
        if not any(app_sessions) and self.sessions._is_set("merge_gap_seconds"):
            raise ValueError(
                "sessions.merge_gap_seconds has no effect where the log tells of no app "
                "session (source.columns.app_open ...)"
            )
        return self

    @model_validator(mode="after")
    def _relations_name_views(self) -> "PipelineConfig":
        value_views = set(self.views) - {ITEM_VIEW}
        for name, relation in self.relations.items():
            if relation.view not in value_views:
                nearest = near(relation.view, value_views)
                raise ValueError(
                    f"relations.{name}.view is '{relation.view}'; "
                    f"the value views are {sorted(value_views)}{nearest}"
                )
            if name in self.views:
                raise ValueError(
                    f"'{name}' names a view and a relation: tasks need names of their own"
                )
        return self


def fingerprint(values: Any) -> str:
    """Stands for values of a configuration; hex SHA-256."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
