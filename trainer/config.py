"""What the trainer can be told: the section [train] of a configuration file. Every field's text is
also the text of `--help`.

A field's type says too whether a run may go on with another value of it (`MayChange`).
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config import Section


class TrainConfigError(Exception):
    """A setting of [train] that does not fit the shards, the tasks or the number of ranks."""


@dataclass(frozen=True)
class MayChange:
    """Marks a setting that is no part of what a run is: two runs that differ in it alone are the
    same run, and one may go on with another's checkpoint. What is not marked decides the result."""

    why: str
    unless_decay: bool = False
    """Whether it is part of the run where rates fall over the run."""


ROUNDING = MayChange("It changes no more than rounding.")
CADENCE = MayChange("It says how often to log, save or measure, or which step is the last.")
LENGTH = MayChange("It says which step is the last.", unless_decay=True)
RESCUE = MayChange("It brings a run on that broke on numbers that are not finite.")


class Train(Section):
    """[train] The M2GRL trainer."""

    step: Literal["fast", "exact"] = "fast"
    """fast: negatives shared by a chunk of centres, closed-form gradients; exact: own negatives for
    each pair (the paper's, the oracle)."""
    kernels: Annotated[Literal["auto", "compiled", "torch"], ROUNDING] = "auto"
    """Arithmetic compiled for this machine, where a C++ compiler is there (auto) or else not at all
    (compiled); torch: PyTorch alone, by autograd in the exact step. They agree to rounding."""
    device: Annotated[Literal["cpu", "cuda"], ROUNDING] = "cpu"
    """cuda: each rank computes on a GPU of its own, by PyTorch; its tables and their optimiser's
    state lie there."""
    exchange: Annotated[Literal["auto", "shared", "alltoall"], ROUNDING] = "auto"
    """How rows go between ranks. shared: over memory of the host that all ranks run on, which needs
    the compiled kernels; alltoall: by Horovod; auto: shared where that can be. They agree to
    rounding."""
    encoding: Literal["windows", "pairs"] = "windows"
    """Which encoding of the intra-view streams to read, where both were written; their pairs are
    the same."""
    dimension: int = Field(default=64, ge=1)
    """Length d of every vector."""
    negatives: int = Field(default=10, ge=1)
    """Negatives k a positive pair counts for (eq. 3)."""
    noise_exponent: float = Field(default=0.75, ge=0)
    """Noise distribution = counts^this; 0 is uniform."""
    chunk: int = Field(default=64, ge=1)
    """fast: centres that share their drawn negatives."""
    chunk_negatives: int = Field(default=64, ge=1)
    """fast: negatives drawn for a chunk; each counts k / this."""
    epochs: Annotated[int, LENGTH] = Field(default=10, ge=1)
    """Passes over the item stream."""
    batch_pairs: int = Field(default=131072, ge=1)
    """Positive pairs of the item task in a step of all ranks together, on average. Less for a log
    of few million pairs."""
    mixing: Literal["once", "repeat"] = "once"
    """once: an epoch passes once over every stream; repeat: every task gets `batch_pairs` a step
    and short streams repeat (the paper's)."""
    read_ahead: Annotated[bool, ROUNDING] = True
    """Whether a thread of each rank reads the rows of the next step while this one computes."""
    lanes: int = Field(default=16, ge=1)
    """Equal slices of every stream, dealt to the ranks; at least as many as ranks. Part of the
    result, as the number of ranks is not."""
    shuffle_rows: int = Field(default=16384, ge=1)
    """Rows a lane holds in memory and shuffles at a time, anew in each pass."""

    optimiser: Literal["adagrad", "adam"] = "adagrad"
    """adagrad: row-wise Adagrad, one float of state a row; adam: touched rows only, two floats a
    weight."""
    learning_rate: Annotated[float, RESCUE] = Field(default=0.5, gt=0, allow_inf_nan=False)
    decay: Literal["none", "linear"] = "none"
    """linear: rates fall to 0 over the run."""
    dense_learning_rate: Annotated[float, RESCUE] = Field(default=0.01, gt=0, allow_inf_nan=False)
    """Adam's rate for the relations' W, t, b and for log sigma^2."""
    clip_norm: Annotated[float | None, RESCUE] = Field(default=None, gt=0)
    """Norm that the gradient of all parameters together is clipped to."""

    weight_decay: float = Field(default=0.0, ge=0, lt=1)
    """Share by which a step shortens every vector that it touches, after the update; falls with
    `decay`."""
    max_norm: float | None = Field(default=None, gt=0)
    """Length to which a vector is shortened that an update made longer."""

    weighting: Literal["adaptive", "uniform", "static", "given"] = "adaptive"
    """adaptive: learned 1/sigma^2 (eq. 10); uniform: 1; static: 0.05 on the item task, 1 on the
    others; given: `weights`."""
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    """Weight of each task, for weighting = "given"; a task is called like its view or relation."""
    sigma2_floor: float = Field(default=0.05, gt=0)
    """Smallest sigma^2 (paper section 5.3)."""
    relation_weight_cap: float = Field(default=0.05, gt=0)
    """adaptive: largest weight of a relation as a multiple of the item task's; inf: as eq. 10 says.
    An easy relation would otherwise pull the items of a category together (docs/design.md)."""
    alignment: Literal["likelihood", "printed"] = "likelihood"
    """Loss of the inter-view tasks: binary cross-entropy on t (r_a . r_b) + b, or eq. 4 as printed,
    negated."""

    log_seconds: Annotated[float, CADENCE] = Field(default=5.0, gt=0)
    """Seconds between lines of progress."""
    log_steps: Annotated[int, CADENCE] = Field(default=20, ge=1)
    """Steps between records in train.jsonl."""
    checkpoint_epochs: Annotated[int, CADENCE] = Field(default=1, ge=1)
    """Epochs between checkpoints; the last epoch always ends with one."""
    keep_checkpoints: Annotated[int, CADENCE] = Field(default=2, ge=1)
    """Newest checkpoints that are kept. The best one is kept besides."""

    validation_cases: int = Field(default=1000, ge=0)
    """Next items of the validation users (`evaluate.validation_users`) on which HitRate@K is
    measured while training goes on; 0: none."""
    validation_epochs: Annotated[int, CADENCE] = Field(default=1, ge=1)
    """Epochs between measurements; the last epoch always ends with one."""
    best_by: Annotated[Literal["cosine", "conditional"], CADENCE] = "conditional"
    """Score whose HitRate says which checkpoint is the best; a step that is better than all before
    is saved. `export.py --checkpoint best` takes the best."""
    early_stop: Annotated[int | None, CADENCE] = Field(default=None, ge=1)
    """Measurements in a row that were no better than one before after which training ends; none: it
    goes on to its last epoch."""

    @classmethod
    def marked(cls) -> dict[str, MayChange]:
        """The fields that are marked, and how."""
        marks = {}
        for name, field in cls.model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, MayChange):
                    marks[name] = mark
        return marks

    @property
    def may_change(self) -> set[str]:
        """The fields that a run may go on with other values of."""
        decays = self.decay != "none"
        marks = self.marked().items()
        return {name for name, mark in marks if not (mark.unless_decay and decays)}

    def check_ranks(self, ranks: int) -> None:
        """Raises TrainConfigError where there are more ranks than lanes."""
        if self.lanes < ranks:
            raise TrainConfigError(
                f"train.lanes = {self.lanes} is fewer than the {ranks} ranks; raise it or start "
                "fewer ranks"
            )

    @property
    def arithmetic(self) -> Literal["auto", "compiled", "torch"]:
        """What computes on the device: `kernels` are for a processor."""
        return self.kernels if self.device == "cpu" else "torch"

    @property
    def may_share_memory(self) -> bool:
        """Whether ranks of one host may exchange rows over memory that they share."""
        if self.device != "cpu":
            return False
        # What one asks for may fail later, with a message; what is left open may not.
        is_likely = self.exchange == "auto" and self.kernels != "torch"
        return self.exchange == "shared" or is_likely

    @model_validator(mode="after")
    def _a_gpu_does_without_the_host(self) -> Self:
        if self.device == "cuda" and self.kernels == "compiled":
            raise ValueError(
                'device = "cuda" computes by PyTorch; kernels = "compiled" are for device = "cpu"'
            )
        if self.device == "cuda" and self.exchange == "shared":
            raise ValueError(
                'device = "cuda" exchanges rows by alltoall; exchange = "shared" is for device '
                '= "cpu"'
            )
        return self

    @model_validator(mode="after")
    def _weights_belong_to_given(self) -> Self:
        if (self.weighting == "given") != bool(self.weights):
            raise ValueError('`weights` belong to weighting = "given", and are needed there')
        return self
