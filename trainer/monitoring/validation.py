"""HitRate@K while training goes on, on a fixed sample of what was held out: does a session's next
item stand among its trigger's K best?

The users whose cases are looked at are those for validation (pipeline/contracts/heldout.py); the
evaluation leaves them out. The rule of a case, the scores and the order of equal ones are those of
the evaluation's next-item protocol, so that both measure the same. No table is gathered: every rank
counts, among its own rows, how many items score above the target, and the counts are added.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipeline.config import ITEM_VIEW
from pipeline.contracts import heldout
from pipeline.contracts.shards import MANIFEST, Manifest, ManifestError
from pipeline.storage.locations import Location, parquet
from trainer.config import Train, TrainConfigError
from trainer.console import say
from trainer.data import counter_rng as draws
from trainer.embeddings.keys import Side
from trainer.model import M2GRL
from trainer.monitoring import early_stopping as stopping
from trainer.monitoring.early_stopping import History, Score, Validated
from trainer.ranks.comm import Comm

Ints = npt.NDArray[np.int64]
UNTRAINED = -1
"""Row of an item that no training click is on: it has no vector, and its case is a miss."""
PIECE_SCORES = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Scores held in memory at a time; they stay in a core's cache. A GPU wants many."""


@dataclass(frozen=True)
class Validation:
    """What is looked at, and how; as the evaluation is told it."""

    folder: Location
    """The held-out part."""
    users: float
    """Share of its users who are for validation."""
    k: int
    conditional_exponent: float
    cosine_count_exponent: float


@dataclass(frozen=True)
class Cases:
    """Items clicked, and the other item clicked next in the session."""

    trigger: Ints
    """[cases] rows of the item vocabulary, or UNTRAINED."""
    target: Ints
    """[cases]"""


class NoCasesError(Exception):
    """There is nothing to measure; the message says why."""


def read_cases(
    validation: Validation, most: int, shards: Location, manifest: Manifest, counts: Ints
) -> Cases:
    """At most so many next-item cases of the validation users, chosen by hash; counts: occurrences
    of each item in training, by row.

    Raises NoCasesError, or ManifestError where the folder is there and is not whole.
    """
    folder = validation.folder
    if not (folder / MANIFEST).is_file():
        raise NoCasesError(f"{folder / MANIFEST} is not there; set [split], run jobs/preprocess.py")
    heldout.check(folder)
    trigger, target = _sample(folder / heldout.SESSIONS, validation.users, most)
    if not len(trigger):
        raise NoCasesError(
            f"{folder} has no session of two items of a validation user; hold out more, or "
            "raise evaluate.validation_users"
        )
    ids = pa.concat_arrays([trigger, target])
    rows = _rows(shards / manifest.views[ITEM_VIEW].vocabulary.path, ids)
    rows[counts[rows] == 0] = (
        UNTRAINED  # the last row's count stands for UNTRAINED, which stays what it is
    )
    return Cases(*np.split(rows, 2))


def _sample(sessions: Location, users: float, most: int) -> tuple[pa.StringArray, pa.StringArray]:
    """Ids of the triggers and of the targets: of all cases of validation users, those with the
    smallest hashes of their numbers."""
    chosen = pa.table(
        {
            "hash": pa.array([], pa.uint64()),
            "trigger": pa.array([], pa.string()),
            "target": pa.array([], pa.string()),
        }
    )
    number = 0
    for trigger, target in _all_cases(sessions, users):
        hashes = draws.bits(
            draws.purpose("validation cases"), np.arange(number, number + len(trigger))
        )
        number += len(trigger)
        found = pa.concat_tables(
            [chosen, pa.table([hashes, trigger, target], schema=chosen.schema)]
        )
        chosen = found.sort_by("hash").slice(0, most)
    chosen = chosen.combine_chunks()
    return chosen.column("trigger").combine_chunks(), chosen.column("target").combine_chunks()


def _all_cases(sessions: Location, users: float) -> Iterator[tuple[pa.StringArray, pa.StringArray]]:
    """Ids of triggers and targets, a batch of sessions at a time."""
    with parquet(sessions) as file:
        for batch in file.iter_batches(columns=["user_id", "item_ids"]):
            lists = batch.filter(
                pa.array(heldout.of_validation(batch.column("user_id"), users))
            ).column("item_ids")
            items = pc.list_flatten(lists).cast(pa.string())
            session = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy())
            trigger, target = heldout.next_items(
                session, items.dictionary_encode().indices.to_numpy()
            )
            yield items.take(trigger), items.take(target)


def _rows(vocabulary: Location, ids: pa.StringArray) -> Ints:
    """Row of each id; UNTRAINED where the vocabulary lacks it. The vocabulary is passed over, not
    held."""
    encoded = ids.dictionary_encode()
    rows = np.full(len(encoded.dictionary), UNTRAINED, np.int64)
    first = 0
    with parquet(vocabulary) as file:
        for batch in file.iter_batches(columns=["id"]):
            at = pc.index_in(batch.column("id").cast(pa.string()), value_set=encoded.dictionary)
            rows[at.drop_null().to_numpy()] = first + np.flatnonzero(
                at.is_valid().to_numpy(zero_copy_only=False)
            )
            first += len(batch)
    found: Ints = rows[encoded.indices.to_numpy()]
    return found


def agreed_cases(comm: Comm, read: Callable[[], Cases]) -> Cases:
    """What rank 0 reads, on all ranks. All call it; raises what `read` raises, on all of them."""
    told: Cases | NoCasesError | ManifestError | None = None
    if comm.rank == 0:
        try:
            told = read()
        except (NoCasesError, ManifestError) as error:
            told = error
    found = comm.gather(told, "validation cases")[0]
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, Cases)
    return found


@dataclass(frozen=True)
class Space:
    """A score as an inner product: (vectors [n, d], counts [n]) -> float64 [n, d'], of triggers and
    of candidates."""

    side: Side
    """Table of the candidates; triggers are input vectors."""
    triggers: Callable[[Tensor, Tensor], Tensor]
    candidates: Callable[[Tensor, Tensor], Tensor]


def spaces(validation: Validation) -> dict[Score, Space]:
    """The scores, as jobs/similarity/scores.py has them."""

    def unit(vectors: Tensor, counts: Tensor) -> Tensor:
        """A vector of 0 has no direction: its row is NaN, which is above nothing."""
        norms = vectors.double().norm(dim=1)
        lengths = counts.clamp(min=1) ** validation.cosine_count_exponent / torch.where(
            norms > 0, norms, torch.nan
        )
        return vectors.double() * lengths[:, None]

    def with_one(vectors: Tensor, counts: Tensor) -> Tensor:
        return torch.cat([vectors.double(), torch.ones_like(counts)[:, None]], dim=1)

    def with_prior(vectors: Tensor, counts: Tensor) -> Tensor:
        prior = validation.conditional_exponent * torch.log(counts.clamp(min=1))
        return torch.cat([vectors.double(), prior[:, None]], dim=1)

    return {
        "cosine": Space("input", unit, unit),
        "conditional": Space("output", with_one, with_prior),
    }


class Validator:
    """Measures the HitRates of a model. The same for any number of ranks, equal scores and all, but
    for what rounding made of the rows."""

    def __init__(self, model: M2GRL, validation: Validation, cases: Cases, counts: Ints) -> None:
        """counts: occurrences of each item in training, by row."""
        self.users, self.k, self.cases = validation.users, validation.k, len(cases.trigger)
        self._model, self._counts, self._spaces = model, counts, spaces(validation)
        known = (cases.trigger != UNTRAINED) & (cases.target != UNTRAINED)
        self._trigger, self._target = cases.trigger[known], cases.target[known]
        keys = model.tables.keys
        inputs = np.union1d(self._trigger, self._target) + keys.table(ITEM_VIEW, "input").offset
        outputs = np.unique(self._target) + keys.table(ITEM_VIEW, "output").offset
        self._wanted = np.concatenate(
            [inputs, outputs]
        )  # ascending: output vectors come after all input vectors

    def measure(self, step: int) -> Validated:
        """The HitRates after so many steps. All ranks call it, between two steps."""
        model = self._model
        with model.clock("validate"):
            model.comm.barrier()  # every rank's rows have been moved by the last step
        vectors, _ = model.tables.lookup(self._on_device(self._wanted))
        with model.clock("validate"):
            mine = torch.stack([self._above(space, vectors) for space in self._spaces.values()])
            above = model.comm.allreduce(mine.cpu(), "validation")
        hits = (above < self.k).sum(1).tolist()
        hit_rate = {
            score: count / self.cases for score, count in zip(self._spaces, hits, strict=True)
        }
        return Validated(step=step, hit_rate=hit_rate, k=self.k, cases=self.cases)

    def _above(self, space: Space, vectors: Tensor) -> Tensor:
        """[known cases] float64: how many of this rank's items stand before the target; infinite
        where it has no score."""
        tables, counts = self._model.tables, self._counts
        triggers = space.triggers(
            self._looked_up(vectors, "input", self._trigger),
            self._on_device(counts[self._trigger]).double(),
        )
        target = space.candidates(
            self._looked_up(vectors, space.side, self._target),
            self._on_device(counts[self._target]).double(),
        )
        wanted = (triggers * target).sum(1).float()
        above = torch.where(wanted.isfinite(), 0.0, torch.inf).double()
        for local, rows in tables.own_rows(
            tables.keys.table(ITEM_VIEW, space.side),
            max(1, PIECE_SCORES[wanted.device.type] // max(1, len(wanted))),
        ):
            seen = np.flatnonzero(counts[rows])
            if len(seen):
                vectors_of_piece = tables.values[local].index_select(0, self._on_device(seen))
                offered = space.candidates(
                    vectors_of_piece, self._on_device(counts[rows[seen]]).double()
                )
                # Products in float64, whose sums hardly depend on their order, rounded to float32:
                # equal vectors have equal scores wherever they lie, and the scores are those of the
                # evaluation's search.
                above += self._before((triggers @ offered.T).float(), wanted, rows[seen])
        return above

    def _looked_up(self, vectors: Tensor, side: Side, rows: Ints) -> Tensor:
        keys = rows + self._model.tables.keys.table(ITEM_VIEW, side).offset
        return vectors.index_select(0, self._on_device(np.searchsorted(self._wanted, keys)))

    def _before(self, scores: Tensor, wanted: Tensor, rows: Ints) -> Tensor:
        """[cases] how many of the scores [cases, rows] are above the wanted one, or equal and of a
        lower row. Neither trigger nor target counts."""
        for out in (self._trigger, self._target):
            at = np.searchsorted(rows, out).clip(max=len(rows) - 1)
            here = np.flatnonzero(rows[at] == out)
            scores[self._on_device(here), self._on_device(at[here])] = -torch.inf
        before = scores > wanted[:, None]
        equal = scores == wanted[:, None]
        if equal.any():
            before |= equal & self._on_device(rows[None, :] < self._target[:, None])
        return before.sum(1)

    def _on_device(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._model.device)


def make_validator(
    model: M2GRL, validation: Validation | None, shards: Location, manifest: Manifest, counts: Ints
) -> Validator | None:
    """What measures a run; none where nothing is held out for that, or it is switched off. All
    ranks call it.

    Raises TrainConfigError where `train.early_stop` needs it, ManifestError where the held-out part
    is not whole.
    """
    train, why = (
        model.train,
        (
            "nothing is for validation; set [split], evaluate.validation_users and "
            "train.validation_cases"
        ),
    )
    if validation is not None and train.validation_cases:
        asked = validation
        try:
            cases = agreed_cases(
                model.comm,
                lambda: read_cases(asked, train.validation_cases, shards, manifest, counts),
            )
            return Validator(model, asked, cases, counts)
        except NoCasesError as error:
            why = str(error)
            if model.comm.rank == 0:
                say(f"no HitRate while training: {why}")
    if train.early_stop is not None:
        raise TrainConfigError(f"train.early_stop = {train.early_stop} has nothing to go by: {why}")
    return None


class Course:
    """When a run is measured, what was found, and what follows from it. The same on all ranks."""

    def __init__(
        self,
        validator: Validator | None,
        history: History,
        train: Train,
        steps_an_epoch: int,
        total: int,
    ) -> None:
        """history: what a run that goes on has found before."""
        self.history = history if validator is not None else ()
        self._validator, self._train, self._total = validator, train, total
        self._every = train.validation_epochs * steps_an_epoch

    def after(self, done: int) -> Validated | None:
        """Measures, where that is due after `done` steps. All ranks call it after each step."""
        if self._validator is None or (done % self._every and done != self._total):
            return None
        found = self._validator.measure(done)
        self.history = (*self.history, found)
        return found

    def best(self) -> Validated | None:
        """The best measurement by `train.best_by`."""
        return stopping.best(self.history, self._train.best_by)

    def is_best(self, step: int) -> bool:
        """Whether the step was measured, and is better than all before."""
        found = self.best()
        return found is not None and found.step == step

    @property
    def ended(self) -> bool:
        """Whether training ends here, before its last step."""
        return stopping.ends(self.history, self._train.best_by, self._train.early_stop)
