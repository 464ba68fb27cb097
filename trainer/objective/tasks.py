"""The tasks of a manifest: one intra-view task a view, one inter-view task a relation, each with
its lanes of this rank."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.config import ITEM_VIEW
from pipeline.contracts.sealed import ManifestError, check_file
from pipeline.contracts.shards import Manifest, Stream
from pipeline.storage.locations import Location, read_table
from trainer.arrays import Int64s
from trainer.config import Train
from trainer.data import counter_rng, order
from trainer.data.streams import Lane, LaneRows, StreamFiles
from trainer.embeddings.keys import KeySpace, Side
from trainer.kernels import build
from trainer.kernels.build import Kernel
from trainer.objective.batch import DenseParameters, Work
from trainer.objective.chunks import NegativeSampling, Sampler
from trainer.objective.exact import ExactIntraWork, ExactKernel, ExactRelationWork
from trainer.objective.fast_pairs import CentreKernel, PairWork, RelationWork
from trainer.objective.fast_windows import WindowKernel, WindowWork
from trainer.objective.noise import DrawKernel, Noise
from trainer.objective.relations import RelationParameters
from trainer.ranks.comm import Comm

MakeWork = Callable[[LaneRows, int], Work]


@dataclass(frozen=True)
class Task:
    """One term of the objective, called like its view or relation."""

    name: str
    lanes: tuple[Lane, ...]
    """The lanes this rank serves."""
    make: MakeWork
    is_relation: bool = False
    """Whether it is an inter-view task."""
    dense: DenseParameters | None = None
    """The dense parameters that it owns; none: it learns the tables alone."""

    def verify(self) -> None:
        """Opens every file that this rank reads. Raises ManifestError naming one that is missing or
        is not the one listed."""
        for lane in self.lanes:
            lane.verify()

    @property
    def reading(self) -> Location | None:
        """The file that is being read right now, by another thread."""
        return next((lane.reading for lane in self.lanes if lane.reading is not None), None)

    def read(self, step: int) -> LaneRows:
        """The rows that this rank's lanes serve in a step; empty where they serve nothing."""
        parts = [(lane.number, lane.read(step)) for lane in self.lanes]
        return [(number, rows) for number, rows in parts if rows is not None]

    def build(self, rows: LaneRows, step: int) -> Work | None:
        """This rank's share of a step, from its rows; none where there are none."""
        return self.make(rows, step) if rows else None


class TaskFactory:
    """Builds the tasks of a shard folder for one rank."""

    def __init__(
        self, folder: Location, manifest: Manifest, train: Train, seed: int, comm: Comm
    ) -> None:
        train.check_ranks(comm.size)
        self.manifest = manifest
        views = views_in_order(manifest)
        self.keys = KeySpace.of({view: manifest.views[view].vocabulary.nodes for view in views})
        self._folder = folder
        self._train = train
        self._seed = seed
        self._comm = comm
        self._sampling = NegativeSampling(train.negatives, train.chunk, train.chunk_negatives)
        of_views = {view: intra_stream(manifest, view, train.encoding) for view in manifest.views}
        of_relations = {name: relation_stream(manifest, name) for name in manifest.relations}
        self._streams = of_views | of_relations
        counts = {view: read_counts(folder, manifest, view) for view in manifest.views}
        self._noise = {view: Noise(count, train.noise_exponent) for view, count in counts.items()}
        self._draw_kernel = build.if_wanted(train.kernels, DrawKernel)
        self.item_counts = _smaller(counts[ITEM_VIEW])
        # Arrow would keep what it decoded the vocabularies in: a tenth of a gigabyte for ten
        # million nodes.
        del counts
        pa.default_memory_pool().release_unused()
        item_pairs = self._streams[ITEM_VIEW].pairs
        self.steps_an_epoch = order.steps_an_epoch(item_pairs, train.batch_pairs)

    def tasks(self) -> list[Task]:
        """The item task first, then the other views, then the relations."""
        intra = [self._intra(view) for view in views_in_order(self.manifest)]
        inter = [self._inter(relation) for relation in self.manifest.relations]
        return intra + inter

    def _intra(self, view: str) -> Task:
        """A view predicts contexts (its *output* vectors) from centres (its *input* vectors), as
        eq. 2 has it."""
        stream = self._streams[view]
        sampling = self._sampling
        offsets = self._offset(view, "input"), self._offset(view, "output")
        window = stream.window or 0
        window_kernel = self._window_kernel(window) if stream.encoding == "windows" else None
        centre_kernel = self._centre_kernel() if stream.encoding == "pairs" else None
        exact_kernel = self._exact_kernel()
        k = self._train.negatives

        def make(lanes: LaneRows, step: int) -> Work:
            sampler = self._sampler(view, view, step)
            if self._train.step == "exact":
                return ExactIntraWork(lanes, window, sampler, k, offsets, exact_kernel)
            if stream.encoding == "pairs":
                return PairWork(lanes, sampler, sampling, offsets, centre_kernel)
            return WindowWork(lanes, window, sampler, sampling, offsets, window_kernel)

        return Task(view, self._lanes(view), make)

    def _window_kernel(self, window: int) -> WindowKernel | None:
        d = self._train.dimension
        sampling = self._sampling
        return self._kernel("fast", lambda: WindowKernel(d, sampling, window))

    def _centre_kernel(self) -> CentreKernel | None:
        d = self._train.dimension
        sampling = self._sampling
        return self._kernel("fast", lambda: CentreKernel(d, sampling))

    def _exact_kernel(self) -> ExactKernel | None:
        d = self._train.dimension
        k = self._train.negatives
        return self._kernel("exact", lambda: ExactKernel(d, k))

    def _kernel(self, step: str, make: Callable[[], Kernel]) -> Kernel | None:
        """What computes the losses of that step; none where it is not the step that is taken, or
        PyTorch is to compute."""
        if self._train.step != step:
            return None
        return build.if_wanted(self._train.arithmetic, make)

    def _inter(self, relation: str) -> Task:
        """A relation reads the *input* vectors of both views (paper section 3.4); only the value is
        corrupted."""
        value_view = self.manifest.relations[relation].view
        offsets = self._offset(ITEM_VIEW, "input"), self._offset(value_view, "input")
        printed = self._train.alignment == "printed"
        centre_kernel = self._centre_kernel()
        exact_kernel = self._exact_kernel()
        sampling = self._sampling
        k = self._train.negatives

        def make(lanes: LaneRows, step: int) -> Work:
            sampler = self._sampler(relation, value_view, step)
            if self._train.step == "exact":
                return ExactRelationWork(
                    relation, lanes, sampler, k, offsets, printed, exact_kernel
                )
            return RelationWork(relation, lanes, sampler, sampling, offsets, printed, centre_kernel)

        dense = RelationParameters(relation, self._train.dimension, k, self._seed)
        return Task(relation, self._lanes(relation), make, is_relation=True, dense=dense)

    def _offset(self, view: str, side: Side) -> int:
        return self.keys.table(view, side).offset

    def _sampler(self, task: str, view: str, step: int) -> Sampler:
        key = (self._seed, counter_rng.purpose(f"negatives of {task}"))
        return Sampler(self._noise[view], key, step, self._draw_kernel)

    def _lanes(self, name: str) -> tuple[Lane, ...]:
        train = self._train
        stream = self._streams[name]
        files = StreamFiles(self._folder, stream)
        if train.mixing == "repeat":
            rate = order.pairs_a_step(train.batch_pairs, stream.pairs)
        else:
            rate = order.once_an_epoch(self.steps_an_epoch)
        # Lane l is served by rank l mod N.
        numbers = range(self._comm.rank, train.lanes, self._comm.size)
        common = (train.lanes, rate, train.shuffle_rows, self._seed)
        return tuple(Lane(files, name, number, *common) for number in numbers)


def views_in_order(manifest: Manifest) -> list[str]:
    """The views, the instance view first. Raises ManifestError where there is none."""
    if ITEM_VIEW not in manifest.views:
        raise ManifestError(
            f"the manifest has the views {sorted(manifest.views)}, and not the instance view "
            f"'{ITEM_VIEW}'"
        )
    return [ITEM_VIEW, *(view for view in manifest.views if view != ITEM_VIEW)]


def intra_stream(manifest: Manifest, view: str, encoding: str) -> Stream:
    """The stream that trains a view. Raises ManifestError where it is absent or holds no pairs."""
    written = manifest.views[view].streams
    streams: dict[str, Stream] = {stream.encoding: stream for stream in written}
    # Edges exist as pairs only: a view with one stream is read from that one.
    stream = streams.get(encoding) or next(iter(streams.values()), None)
    if stream is None or not stream.pairs:
        raise ManifestError(
            f"view '{view}' has no training pairs: no sequence holds two nodes; check filters "
            "and minimum counts"
        )
    return stream


def relation_stream(manifest: Manifest, name: str) -> Stream:
    """The stream that trains a relation. Raises ManifestError where it holds no links."""
    (stream,) = manifest.relations[name].streams
    if not stream.pairs:
        raise ManifestError(
            f"relation '{name}' has no links: no item of the vocabulary has a value in view "
            f"'{manifest.relations[name].view}'"
        )
    return stream


def _smaller(counts: Int64s) -> Int64s:
    """The same numbers in half the memory, where they fit in 32 bits: every rank holds them all."""
    fits = counts.max(initial=0) <= np.iinfo(np.int32).max
    return counts.astype(np.int32) if fits else counts


def read_counts(folder: Location, manifest: Manifest, view: str) -> Int64s:
    """Occurrences of each node of a view, by row; [nodes] int64."""
    vocabulary = manifest.views[view].vocabulary
    check_file(folder, vocabulary.path, vocabulary.bytes, vocabulary.sha256)
    path = folder / vocabulary.path
    counts: Int64s = read_table(path, columns=["count"]).column("count").to_numpy()
    if len(counts) != vocabulary.nodes:
        raise ManifestError(f"{path} has {len(counts)} rows, the manifest says {vocabulary.nodes}")
    return counts
