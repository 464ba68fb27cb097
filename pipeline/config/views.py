"""[views] and [relations] The graphs that are built, and what trains them."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.section import Section

ITEM_VIEW = "item"
"""Name of the instance view: the one whose nodes are the items themselves."""
VIEW_COLUMNS = ("node", "nodes", "row", "previous", "values")
"""Beginnings of the names of columns that the pipeline adds for each view: node_<view>..."""


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
        advice = {"null_values": "; `source.null_ids` says which items mean none", "several": ""}
        for name, instead in advice.items():
            if self.attribute is None and self._is_set(name):
                raise ValueError(f"`{name}` has no effect without `attribute`{instead}")
        return self


class Relation(Section):
    """[relations.NAME] Links between the items and the values of another view."""

    view: str
    """The view whose nodes are linked to the items."""
    rows: Literal["links", "clicks"] = "links"
    """links: each item is a training row once, with all its values; clicks: once per click of the
    training part."""
