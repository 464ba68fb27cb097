"""What every rank of the tests' horovodruns runs: `python -m tests.trainer.driver SHARDS OUTPUT
CASES.json`.

CASES.json: {name: {"train": settings of Train, "fault": none or a name of FAULTS, "resume": bool,
"heldout": none or a folder}}. Each case is trained into OUTPUT/name; rank 0 adds
OUTPUT/name/calls.json, the collective operations of each step. Half of a held-out folder's users
are for validation.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer.config import Train
from trainer.embeddings.tables import ScatteredTables, SharedTables
from trainer.model import M2GRL
from trainer.monitoring.validation import ValidationSettings
from trainer.ranks.comm import Comm, open_comm
from trainer.training import train

SEED = 5
BROKEN_RANK = 1
BROKEN_STEP = 3
EXIT_STATUS = 7

step = M2GRL.step
send_home: dict[type, Callable[..., Any]] = {
    tables: tables.send_home for tables in (SharedTables, ScatteredTables)
}


def drop_gradients(self: Any, ticket: Any, gradient: torch.Tensor) -> Any:
    """One rank's gradients do not reach the owners."""
    return send_home[type(self)](
        self, ticket, gradient * 0 if self.comm.rank == BROKEN_RANK else gradient
    )


def apply_one_by_one(self: ScatteredTables, ticket: Any, gradient: torch.Tensor) -> Any:
    """The owner forgets to sum what several ranks send for one row."""
    received, _ = self.comm.alltoall(gradient[ticket.order], ticket.sent, "gradients")
    return ticket.rows, received


def collect_one_by_one(self: SharedTables) -> Any:
    """The same over shared memory."""
    rank, size = self.comm.rank, self.comm.size
    parts = [slice(int(sent[:rank].sum()), int(sent[: rank + 1].sum())) for sent in self._sent]
    keys = torch.cat([self._keys[sender, part] for sender, part in enumerate(parts)])
    return keys // size, torch.cat(
        [self._gradients[sender, part] for sender, part in enumerate(parts)]
    )


def at_broken_step(end: Callable[[], None]) -> Callable[..., Any]:
    def broken(self: M2GRL, works: Any, number: int, *others: Any) -> Any:
        if self.comm.rank == BROKEN_RANK and number == BROKEN_STEP:
            end()
        return step(self, works, number, *others)

    return broken


def fail() -> None:
    raise RuntimeError("this rank fails on purpose")


FAULTS: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "drop gradients, alltoall": (ScatteredTables, "send_home", drop_gradients),
    "apply one by one, alltoall": (ScatteredTables, "send_home", apply_one_by_one),
    "drop gradients, shared": (SharedTables, "send_home", drop_gradients),
    "apply one by one, shared": (SharedTables, "_collect", collect_one_by_one),
    "killed": (M2GRL, "step", at_broken_step(lambda: os.kill(os.getpid(), signal.SIGKILL))),
    "exits": (M2GRL, "step", at_broken_step(lambda: sys.exit(EXIT_STATUS))),
    "fails": (M2GRL, "step", at_broken_step(fail)),
    "stops": (M2GRL, "step", at_broken_step(lambda: os.kill(os.getpid(), signal.SIGSTOP))),
    "hangs": (M2GRL, "step", at_broken_step(lambda: time.sleep(3600))),
}


def main() -> None:
    shards, output, cases = sys.argv[1:]
    comm = open_comm()
    for name, case in json.loads(Path(cases).read_text(encoding="utf-8")).items():
        run(comm, Path(shards), Path(output) / name, case)
    comm.close()


def break_rank(fault: str) -> None:
    """Breaks BROKEN_RANK for good."""
    target, attribute, replacement = FAULTS[fault]
    setattr(target, attribute, replacement)


def run(comm: Comm, shards: Path, output: Path, case: dict[str, Any]) -> None:
    target, attribute, replacement = FAULTS.get(case.get("fault", ""), (M2GRL, "step", M2GRL.step))
    original, calls = getattr(target, attribute), []
    setattr(target, attribute, replacement)
    counted = M2GRL.step

    def counting(self: M2GRL, *arguments: Any) -> Any:
        before = self.comm.calls
        result = counted(self, *arguments)
        calls.append(self.comm.calls - before)
        return result

    M2GRL.step = counting  # type: ignore[method-assign, assignment]
    try:
        validation = (
            ValidationSettings(Path(case["heldout"]), 0.5, 10, 0.75, 0.0)
            if "heldout" in case
            else None
        )
        train(
            shards,
            output,
            Train(**case["train"]),
            SEED,
            comm,
            case.get("resume", False),
            validation=validation,
        )
    finally:
        M2GRL.step = step  # type: ignore[method-assign]
        setattr(target, attribute, original)
    if comm.rank == 0:
        (output / "calls.json").write_text(json.dumps(calls), encoding="utf-8")


if __name__ == "__main__":
    main()
