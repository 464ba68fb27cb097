"""What the pipeline can be told: the sections [source] to [split] of a configuration file.

Every field carries its meaning, which is also the text of `--help`.
"""

from pipeline.config.clicks import Clean, Sessions, Split
from pipeline.config.output import LakeLayout, Shards
from pipeline.config.section import Section, in_utc, near
from pipeline.config.source import DAY_IN_PATH, EventColumns, Files, ItemTable, Source, Time
from pipeline.config.views import ITEM_VIEW, Relation, View, Walks
from pipeline.config.whole import PipelineConfig, fingerprint

__all__ = [
    "DAY_IN_PATH",
    "ITEM_VIEW",
    "Clean",
    "EventColumns",
    "Files",
    "ItemTable",
    "LakeLayout",
    "PipelineConfig",
    "Relation",
    "Section",
    "Sessions",
    "Shards",
    "Source",
    "Split",
    "Time",
    "View",
    "Walks",
    "fingerprint",
    "in_utc",
    "near",
]
