"""HitRate@K while training goes on, on a fixed sample of what was held out: does a session's next
item stand among its trigger's K best?

The users whose cases are looked at are those for validation (pipeline/contracts/heldout.py); the
evaluation leaves them out. The rule of a case, the scores and the order of equal ones are those of
the evaluation's next-item protocol, so that both measure the same. No table is gathered: every rank
counts, among its own rows, how many items score above the target, and the counts are added.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipeline.config import ITEM_VIEW
from pipeline.contracts import heldout
from pipeline.contracts.sealed import MANIFEST, ManifestError
from pipeline.contracts.shards import Manifest
from pipeline.storage.locations import Location, parquet
from trainer.arrays import Array, Int64s
from trainer.config import Train, TrainConfigError
from trainer.console import print_line
from trainer.data import counter_rng
from trainer.embeddings.keys import Side
from trainer.model import M2GRL
from trainer.monitoring import early_stopping
from trainer.monitoring.early_stopping import History, ScoreName, Validated
from trainer.ranks.comm import Comm

UNTRAINED = -1
"""Row of an item that no training click is on: it has no vector, and its case is a miss."""
PIECE_SCORES = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Scores held in memory at a time; they stay in a core's cache. A GPU wants many."""


@dataclass(frozen=True)
class ValidationSettings:
    """What is looked at, and how; as the evaluation is told it."""

    folder: Location
    """The held-out part."""
    users: float
    """Share of its users who are for validation."""
    k: int
    conditional_exponent: float
    cosine_count_exponent: float


@dataclass(frozen=True)
class NextItemCases:
    """Items clicked, and the other item clicked next in the session."""

    trigger: Int64s
    """[cases] rows of the item vocabulary, or UNTRAINED."""
    target: Int64s
    """[cases]"""


class NoCasesError(Exception):
    """There is nothing to measure; the message says why."""


def read_next_item_cases(
    validation: ValidationSettings, most: int, shards: Location, manifest: Manifest, counts: Int64s
) -> NextItemCases:
    """At most so many next-item cases of the validation users, chosen by hash; counts: occurrences
    of each item in training, by row.

    Raises NoCasesError, or ManifestError where the folder is there and is not whole.
    """
    folder = validation.folder
    manifest_path = folder / MANIFEST
    if not manifest_path.is_file():
        raise NoCasesError(f"{manifest_path} is not there; set [split], run jobs/preprocess.py")
    heldout.check(folder)
    trigger, target = _sample(folder / heldout.SESSIONS, validation.users, most)
    if not len(trigger):
        raise NoCasesError(
            f"{folder} has no session of two items of a validation user; hold out more, or "
            "raise evaluate.validation_users"
        )
    ids = pa.concat_arrays([trigger, target])
    vocabulary = shards / manifest.views[ITEM_VIEW].vocabulary.path
    # [triggers and targets]
    rows = _rows(vocabulary, ids)
    # The last row's count stands for UNTRAINED (-1), which stays what it is.
    is_untrained = counts[rows] == 0
    rows[is_untrained] = UNTRAINED
    triggers, targets = np.split(rows, 2)
    return NextItemCases(triggers, targets)


def _sample(sessions: Location, users: float, most: int) -> tuple[pa.StringArray, pa.StringArray]:
    """Ids of the triggers and of the targets: of all cases of validation users, those with the
    smallest hashes of their numbers."""
    text = pa.string()
    schema = pa.schema([("hash", pa.uint64()), ("trigger", text), ("target", text)])
    chosen = schema.empty_table()
    purpose = counter_rng.purpose("validation cases")
    number = 0
    for trigger, target in _all_cases(sessions, users):
        numbers = np.arange(number, number + len(trigger))
        hashes = counter_rng.bits(purpose, numbers)
        number += len(trigger)
        # The smallest of all are among the smallest so far: never more than those are held.
        cases = pa.table([hashes, trigger, target], schema=schema)
        chosen = pa.concat_tables([chosen, cases]).sort_by("hash").slice(0, most)
    chosen = chosen.combine_chunks()
    return chosen.column("trigger").combine_chunks(), chosen.column("target").combine_chunks()


def _all_cases(sessions: Location, users: float) -> Iterator[tuple[pa.StringArray, pa.StringArray]]:
    """Ids of triggers and targets, a batch of sessions at a time."""
    with parquet(sessions) as file:
        for batch in file.iter_batches(columns=["user_id", "item_ids"]):
            is_validation = heldout.of_validation(batch.column("user_id"), users)
            lists = batch.filter(pa.array(is_validation)).column("item_ids")
            # [clicks]: the item and the session of each.
            items = pc.list_flatten(lists).cast(pa.string())
            lengths = pc.list_value_length(lists).to_numpy()
            session = np.repeat(np.arange(len(lists)), lengths)
            item_numbers = items.dictionary_encode().indices.to_numpy()
            trigger, target = heldout.next_items(session, item_numbers)
            yield items.take(trigger), items.take(target)


def _rows(vocabulary: Location, ids: pa.StringArray) -> Int64s:
    """Row of each id; UNTRAINED where the vocabulary lacks it. The vocabulary is passed over, not
    held."""
    encoded = ids.dictionary_encode()
    rows = np.full(len(encoded.dictionary), UNTRAINED, np.int64)
    first = 0
    with parquet(vocabulary) as file:
        for batch in file.iter_batches(columns=["id"]):
            names = batch.column("id").cast(pa.string())
            # [batch] which of the ids stands in each row of the vocabulary; null: none of them.
            position = pc.index_in(names, value_set=encoded.dictionary)
            is_asked = position.is_valid().to_numpy(zero_copy_only=False)
            rows[position.drop_null().to_numpy()] = first + np.flatnonzero(is_asked)
            first += len(batch)
    # [distinct ids] -> [ids]
    of_ids: Int64s = rows[encoded.indices.to_numpy()]
    return of_ids


def agreed_cases(comm: Comm, read: Callable[[], NextItemCases]) -> NextItemCases:
    """What rank 0 reads, on all ranks. All call it; raises what `read` raises, on all of them."""
    own: NextItemCases | NoCasesError | ManifestError | None = None
    if comm.rank == 0:
        try:
            own = read()
        except (NoCasesError, ManifestError) as error:
            own = error
    of_rank_0, *_ = comm.gather(own, "validation cases")
    if isinstance(of_rank_0, Exception):
        raise of_rank_0
    assert isinstance(of_rank_0, NextItemCases)
    return of_rank_0


@dataclass(frozen=True)
class InnerProductScore:
    """A score as an inner product: (vectors [n, d], counts [n]) -> float64 [n, d'], of triggers and
    of candidates."""

    side: Side
    """Table of the candidates; triggers are input vectors."""
    triggers: Callable[[Tensor, Tensor], Tensor]
    candidates: Callable[[Tensor, Tensor], Tensor]


def inner_product_scores(validation: ValidationSettings) -> dict[ScoreName, InnerProductScore]:
    """The scores, as jobs/similarity/scores.py has them."""

    def unit(vectors: Tensor, counts: Tensor) -> Tensor:
        """A vector of 0 has no direction: its row is NaN, which is above nothing."""
        norms = vectors.double().norm(dim=1)
        divisors = torch.where(norms > 0, norms, torch.nan)
        factors = counts.clamp(min=1) ** validation.cosine_count_exponent / divisors
        # [n, d] * [n, 1]
        return vectors.double() * factors[:, None]

    def with_one(vectors: Tensor, counts: Tensor) -> Tensor:
        # [n, d + 1]: with the candidates' prior beside it, the product adds that prior.
        ones = torch.ones_like(counts)[:, None]
        return torch.cat([vectors.double(), ones], dim=1)

    def with_prior(vectors: Tensor, counts: Tensor) -> Tensor:
        prior = validation.conditional_exponent * torch.log(counts.clamp(min=1))
        return torch.cat([vectors.double(), prior[:, None]], dim=1)

    return {
        "cosine": InnerProductScore("input", unit, unit),
        "conditional": InnerProductScore("output", with_one, with_prior),
    }


class Validator:
    """Measures the HitRates of a model. The same for any number of ranks, equal scores and all, but
    for what rounding made of the rows."""

    def __init__(
        self, model: M2GRL, validation: ValidationSettings, cases: NextItemCases, counts: Int64s
    ) -> None:
        """counts: occurrences of each item in training, by row."""
        self.users = validation.users
        self.k = validation.k
        self.cases = len(cases.trigger)
        self._model = model
        self._counts = counts
        self._scores = inner_product_scores(validation)
        # A case with an untrained item is a miss, whatever is measured: it only counts.
        is_trained = (cases.trigger != UNTRAINED) & (cases.target != UNTRAINED)
        self._trigger = cases.trigger[is_trained]
        self._target = cases.target[is_trained]
        keys = model.tables.keys
        input_offset = keys.table(ITEM_VIEW, "input").offset
        output_offset = keys.table(ITEM_VIEW, "output").offset
        inputs = np.union1d(self._trigger, self._target) + input_offset
        outputs = np.unique(self._target) + output_offset
        # Ascending: output vectors come after all input vectors.
        self._keys = np.concatenate([inputs, outputs])

    def measure(self, step: int) -> Validated:
        """The HitRates after so many steps. All ranks call it, between two steps."""
        model = self._model
        with model.clock("validate"):
            # Every rank's rows have been moved by the last step.
            model.comm.barrier()
        vectors, _ = model.tables.lookup(self._on_device(self._keys))
        with model.clock("validate"):
            # [scores, cases]: how many items of this rank come before the target; then of all.
            parts = [self._above(score, vectors) for score in self._scores.values()]
            own = torch.stack(parts)
            above = model.comm.allreduce(own.cpu(), "validation")
        hits = (above < self.k).sum(1).tolist()
        pairs = zip(self._scores, hits, strict=True)
        hit_rate = {score: count / self.cases for score, count in pairs}
        return Validated(step=step, hit_rate=hit_rate, k=self.k, cases=self.cases)

    def _above(self, score: InnerProductScore, vectors: Tensor) -> Tensor:
        """[trained cases] float64: how many of this rank's items stand before the target; infinite
        where it has no score."""
        tables = self._model.tables
        counts = self._counts
        # [cases, d'] each
        trigger_vectors = self._looked_up(vectors, "input", self._trigger)
        triggers = score.triggers(trigger_vectors, self._counts_of(self._trigger))
        target_vectors = self._looked_up(vectors, score.side, self._target)
        targets = score.candidates(target_vectors, self._counts_of(self._target))
        target_scores = (triggers * targets).sum(1).float()
        above = torch.where(target_scores.isfinite(), 0.0, torch.inf).double()
        table = tables.keys.table(ITEM_VIEW, score.side)
        piece_rows = PIECE_SCORES[above.device.type] // max(1, len(target_scores))
        for local, rows in tables.own_rows(table, max(1, piece_rows)):
            clicked = np.flatnonzero(counts[rows])
            if not len(clicked):
                continue
            candidate_rows = rows[clicked]
            piece = tables.values[local].index_select(0, self._on_device(clicked))
            candidates = score.candidates(piece, self._counts_of(candidate_rows))
            # [cases, d'] x [d', candidates] -> [cases, candidates]. In float64, whose sums hardly
            # depend on their order, rounded to float32: equal vectors have equal scores wherever
            # they lie, and the scores are those of the evaluation's search.
            scores = (triggers @ candidates.T).float()
            above += self._before(scores, target_scores, candidate_rows)
        return above

    def _counts_of(self, rows: Int64s) -> Tensor:
        return self._on_device(self._counts[rows]).double()

    def _looked_up(self, vectors: Tensor, side: Side, rows: Int64s) -> Tensor:
        keys = rows + self._model.tables.keys.table(ITEM_VIEW, side).offset
        positions = np.searchsorted(self._keys, keys)
        return vectors.index_select(0, self._on_device(positions))

    def _before(self, scores: Tensor, target_scores: Tensor, rows: Int64s) -> Tensor:
        """[cases] how many of the scores [cases, rows] are above the target's, or equal and of a
        lower row. Neither trigger nor target counts."""
        for excluded in (self._trigger, self._target):
            # [cases] where each case's own item would stand among the rows, and where it does.
            position = np.searchsorted(rows, excluded).clip(max=len(rows) - 1)
            case = np.flatnonzero(rows[position] == excluded)
            column = position[case]
            scores[self._on_device(case), self._on_device(column)] = -torch.inf
        # [cases, rows] against [cases, 1]
        before = scores > target_scores[:, None]
        equal = scores == target_scores[:, None]
        if equal.any():
            is_lower = rows[None, :] < self._target[:, None]
            before |= equal & self._on_device(is_lower)
        return before.sum(1)

    def _on_device(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._model.device)


def make_validator(
    model: M2GRL,
    validation: ValidationSettings | None,
    shards: Location,
    manifest: Manifest,
    counts: Int64s,
) -> Validator | None:
    """What measures a run; none where nothing is held out for that, or it is switched off. All
    ranks call it.

    Raises TrainConfigError where `train.early_stop` needs it, ManifestError where the held-out part
    is not whole.
    """
    train = model.train
    comm = model.comm
    why = (
        "nothing is for validation; set [split], evaluate.validation_users and "
        "train.validation_cases"
    )
    most = train.validation_cases
    if validation is not None and most:
        read = partial(read_next_item_cases, validation, most, shards, manifest, counts)
        try:
            cases = agreed_cases(comm, read)
            return Validator(model, validation, cases, counts)
        except NoCasesError as error:
            why = str(error)
            if comm.rank == 0:
                print_line(f"no HitRate while training: {why}")
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
        self._validator = validator
        self._train = train
        self._total = total
        self._every = train.validation_epochs * steps_an_epoch

    def after(self, done: int) -> Validated | None:
        """Measures, where that is due after `done` steps. All ranks call it after each step."""
        is_due = done % self._every == 0 or done == self._total
        if self._validator is None or not is_due:
            return None
        measured = self._validator.measure(done)
        self.history = (*self.history, measured)
        return measured

    def best(self) -> Validated | None:
        """The best measurement by `train.best_by`."""
        return early_stopping.best_measurement(self.history, self._train.best_by)

    def is_best(self, step: int) -> bool:
        """Whether the step was measured, and is better than all before."""
        best = self.best()
        return best is not None and best.step == step

    @property
    def ended(self) -> bool:
        """Whether training ends here, before its last step."""
        return early_stopping.ends(self.history, self._train.best_by, self._train.early_stop)
