"""Where the pipeline writes: one folder, with a place in it for each thing that later jobs read."""

from dataclasses import dataclass

from pipeline.storage.locations import Location


@dataclass(frozen=True)
class Output:
    """The files of a run."""

    lake: Location
    """Delta tables."""
    shards: Location
    """Training shards and their manifest."""
    heldout: Location
    """The test part of the log."""
    statistics: Location
    """Funnel and Table 1."""

    @property
    def manifests(self) -> Location:
        """A copy of each manifest that was published, for `rebuild`: the next run removes the one
        beside the shards."""
        return self.lake / "manifests"

    @classmethod
    def under(cls, root: Location, lake: Location | None = None) -> "Output":
        """The files of a project's folder; with another folder's `lake`, where one is given."""
        return cls(
            lake or root / "lake", root / "shards", root / "heldout", root / "statistics.json"
        )
