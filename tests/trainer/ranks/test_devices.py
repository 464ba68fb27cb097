"""A step asks nothing of its device that the host would have to wait for, and mixes no devices:
tried without a GPU.

Operations whose result the host needs are counted by PyTorch's dispatcher. And a step is run on
tensors that say they are on a GPU and hold no numbers (PyTorch's fake tensors): whatever asks for a
number, or brings two devices together, raises.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainer.runs import build, on_ranks, work
from tests.trainer.shards import random_corpus, write_shards
from trainer import model
from trainer.config import Train, TrainConfigError
from trainer.model import M2GRL
from trainer.monitoring import early_stopping
from trainer.monitoring.validation import ValidationSettings, inner_product_scores
from trainer.objective import exact, fast_pairs, fast_windows
from trainer.objective.batch import TaskLoss, Work
from trainer.phases import Clock, Phase
from trainer.ranks.comm import Comm, LocalComm
from trainer.ranks.devices import CPU, device_of

GPU = torch.device("cuda", 0)
EXCHANGE: set[Phase | None] = {"input-dist", "output-dist", "gradients", "dense"}
"""Phases in which the host may wait for the device."""
WAITS = {
    "_local_scalar_dense",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "bincount",
}
"""Operations whose result, or whose result's size, the host needs."""
CASES: dict[str, dict[str, Any]] = {
    "fast": {},
    "fast, adam, clipped": {"optimiser": "adam", "clip_norm": 0.1},
    "fast, pairs, eq. 4 as printed": {"encoding": "pairs", "alignment": "printed"},
    "fast, vectors shortened": {"weight_decay": 0.01, "max_norm": 0.5},
    "exact": {"step": "exact"},
    "exact, eq. 4 as printed": {"step": "exact", "alignment": "printed"},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, random_corpus())
    return folder


class NotingClock(Clock):
    """Knows which phase it is."""

    now: Phase | None = None

    @contextmanager
    def __call__(self, phase: Phase) -> Iterator[None]:
        self.now = phase
        with super().__call__(phase):
            yield
        self.now = None


class Waits(TorchDispatchMode):
    """Counts, by phase, the operations that the host would wait for."""

    def __init__(self, clock: NotingClock) -> None:
        super().__init__()
        self._clock = clock
        self.found: Counter[tuple[Phase | None, str]] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        of_unknown_size = name == "repeat_interleave" and (named or {}).get("output_size") is None
        by_bits = name == "index" and any(
            index is not None and index.dtype == torch.bool for index in arguments[1]
        )
        if name in WAITS or of_unknown_size or by_bits:
            self.found[self._clock.now, name] += 1
        return function(*arguments, **(named or {}))


def waits(
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int = 1,
    spoil: bool = False,
    **settings: Any,
) -> Counter[tuple[Phase | None, str]]:
    """Of all ranks together."""
    monkeypatch.setattr(model, "Clock", NotingClock)

    def step(comm: Comm) -> Counter[tuple[Phase | None, str]]:
        made, tasks = build(shards, comm, kernels="torch", mixing="repeat", **settings)
        assert isinstance(made.clock, NotingClock)
        works = [
            Asking(share) if spoil and share else share
            for share in (work(task, 0) for task in tasks)
        ]
        with Waits(made.clock) as counted:
            made.step(works, 0, 1.0)
        return counted.found

    return sum(on_ranks(ranks, step), Counter())


@dataclass
class Asking:
    """A task's work that looks at its loss."""

    work: Work

    def __getattr__(self, name: str) -> Any:
        return getattr(self.work, name)

    def evaluate(self, *arguments: Any) -> TaskLoss:
        outcome = self.work.evaluate(*arguments)
        assert float(outcome.loss) > 0
        return outcome


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_host_waits_in_exchanges_alone(
    shards: Path, monkeypatch: pytest.MonkeyPatch, ranks: int, name: str
) -> None:
    found = waits(shards, monkeypatch, ranks, **CASES[name])
    assert found["input-dist", "_unique2"] == ranks
    assert ("input-dist", "bincount") in found or ranks == 1
    assert {phase for phase, _ in found} <= EXCHANGE, found


def test_a_task_that_asks_for_its_loss_is_found(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert waits(shards, monkeypatch, spoil=True)["compute", "_local_scalar_dense"] == 5


def fake_step(
    shards: Path, monkeypatch: pytest.MonkeyPatch, spoil: bool = False, **settings: Any
) -> None:
    """All of a step between its exchanges, on fake tensors of a GPU that is not there."""
    # Autograd, which the exact step uses, starts a thread for each GPU: there it is the processor
    # that has no numbers.
    device = CPU if settings.get("step") == "exact" else GPU
    # Which keys are distinct is found on the processor: how many there are is the one size that
    # depends on numbers.
    real, tasks = build(shards, kernels="torch", mixing="repeat", **settings)
    works = [work(task, 0) for task in tasks]
    keys, index = real._distinct(torch.cat([share.keys for share in works if share is not None]))
    monkeypatch.setattr(model, "device_of", lambda *_: device)
    for module in (exact, fast_windows, fast_pairs, model):
        monkeypatch.setattr(module, "moved", lambda tensor, device: tensor.to(device))
    with FakeTensorMode(allow_non_fake_inputs=True):
        made = M2GRL(real.train, real.tables.keys, tasks, LocalComm())
        made.dense = real.dense
        monkeypatch.setattr(made, "_distinct", lambda _: (keys.to(device), index.to(device)))
        for share in works:
            assert share is not None
            share.move(device)
        mine = made._evaluate(
            [Asking(share) if spoil and share else share for share in works], [0.1] * len(works)
        )
        rows, home = made.tables.send_home(mine.ticket, mine.gradient)
        monkeypatch.setattr(made.comm, "allreduce", noted := NotingReduce())
        with pytest.raises(DataDependentOutputException):
            made._reduce(mine.losses, mine.dense, home)
        made.tables.update(made.rows, rows, home, 3, 0.1, 0.5)
    assert noted.device == made.tables.values.device == device
    assert all(state.device == device for state in made.rows.state.values())


class NotingReduce:
    """Notes where that lies which ranks add up."""

    device: torch.device | None = None

    def __call__(self, tensor: Tensor, name: str) -> Tensor:  # noqa: ARG002
        self.device = tensor.device
        return tensor


@pytest.mark.parametrize("name", CASES)
def test_a_step_runs_on_a_device_without_numbers(
    shards: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fake_step(shards, monkeypatch, **CASES[name])


def test_what_asks_for_a_number_is_found_there(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataDependentOutputException):
        fake_step(shards, monkeypatch, spoil=True)


@pytest.mark.parametrize("score", early_stopping.SCORE_NAMES)
def test_scores_of_validation_stay_on_a_gpu(score: early_stopping.ScoreName) -> None:
    space = inner_product_scores(ValidationSettings(Path(), 0.1, 10, 0.75, 0.1))[score]
    with FakeTensorMode():
        vectors, counts = (
            torch.empty(5, 8, device=GPU),
            torch.empty(5, dtype=torch.float64, device=GPU),
        )
        assert (space.triggers(vectors, counts) @ space.candidates(vectors, counts).T).device == GPU


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(
        TrainConfigError,
        match=r'train\.device = "cuda": PyTorch finds 0 GPUs here, this is number 1 of the ranks',
    ):
        device_of(Train(device="cuda"), LocalComm())
    assert device_of(Train(), LocalComm()) == CPU


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"kernels": "compiled"}, "computes by PyTorch"), ({"exchange": "shared"}, "by alltoall")],
)
def test_what_a_gpu_has_not_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Train(device="cuda", **settings)
