"""[lake] and [shards] How tables and training data are written."""

from typing import Literal

from pydantic import Field

from pipeline.config.section import Section


class LakeLayout(Section):
    """[lake] How the Delta tables lie on the disk."""

    partition_by_date: bool = True
    """events, clean and sessions have a folder for each date, so that a day can be replaced without
    reading the others; false for a small log of many years, in which those folders would be many
    and nearly empty. A change takes effect with the next run over the whole log."""


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
