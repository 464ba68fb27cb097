"""One run of the trainer's benchmark in a process of its own (ours: or one a rank): `python -m
tests.bench.train_run ENGINE SHARDS JSON`.

The last line of what it prints are its figures as JSON. Time counts from a few steps after the
start, with the reading of shards, for about as many seconds as asked. Every rank and every peer
computes with one thread.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from pipeline.config import ITEM_VIEW
from pipeline.contracts.shards import SET_OF_SHARDS, Manifest
from tests.bench.corpora import WINDOW, item_alone, sentences
from trainer.checkpoints.saving import Saver
from trainer.config import Train
from trainer.data.prefetch import Reader
from trainer.model import M2GRL
from trainer.objective.exact import expand
from trainer.objective.tasks import TaskFactory
from trainer.ranks.comm import LocalComm, open_comm
from trainer.ranks.shared_memory import is_likely, nearest_comm
from trainer.training import one_step, shards_hash

WARM_STEPS = 3
DIMENSION, NEGATIVES, EXPONENT = 64, 10, 0.75
NAIVE_PAIRS, NAIVE_RATE = 2048, 0.01
GENSIM_TOKENS = 400_000
SEED = 1
Figures = dict[str, Any]


def ours(shards: Path, options: Mapping[str, Any]) -> Figures:
    """The real step of the trainer, over and over."""
    torch.set_num_threads(1)
    train = Train(**options["train"])
    comm = nearest_comm(open_comm(calm=is_likely(train)), train)
    manifest = item_alone(Manifest.read(shards)) if options["alone"] else Manifest.read(shards)
    factory = TaskFactory(shards, manifest, train, SEED, comm)
    tasks = factory.tasks()
    model = M2GRL(train, factory.keys, tasks, comm)
    model.tables.start(SEED)
    for task in tasks:
        task.verify()
    total = train.epochs * factory.steps_an_epoch
    reader = Reader(
        tasks, total, ahead=False, device=model.device, clock=model.clock
    )  # a thread of its own would be a second core's
    for step in range(WARM_STEPS):
        one_step(model, reader, step, total)
    saver, saving = (
        Saver(Path(options.get("save", "")), model, {SET_OF_SHARDS: shards_hash(shards)}, keep=1),
        options.get("save_steps", 0),
    )
    pairs, calls, sent = np.zeros(len(tasks), np.int64), comm.calls, comm.sent_bytes
    comm.barrier()
    model.clock.take()
    waited = comm.waited
    began, steps, votes = time.perf_counter(), 0, 0
    # All ranks have to stop at the same step, so it is the share of them that have time left that
    # decides.
    while steps < 4 or time.perf_counter() - began < options["seconds"] or comm.size > 1:
        result = one_step(model, reader, WARM_STEPS + steps, total, (saver.written,))
        pairs += result.pairs
        (written,), steps = result.votes, steps + 1
        with model.clock("checkpoint"):
            if written == comm.size:
                saver.collect()
            if saving and steps % saving == 0:
                saver.begin(WARM_STEPS + steps)
        if WARM_STEPS + steps >= total:
            break
        if comm.size > 1 and steps % 4 == 0:
            votes += 1
            if comm.allreduce(_late(began, options), "time")[0] > 0:
                break
    if saving:
        saver.finish()
    seconds = time.perf_counter() - began
    each = {
        "calls_a_step": (comm.calls - calls - votes) / steps,
        "sent_bytes_a_pair": (comm.sent_bytes - sent) * comm.size / int(pairs.sum()),
        "waited": (comm.waited - waited) / seconds,
        "phases": {phase: spent / seconds for phase, spent in model.clock.take().items()},
    }
    found = {
        "steps": steps,
        "seconds": seconds,
        "item_pairs": int(pairs[0]),
        "pairs": int(pairs.sum()),
        **each,
    }
    if "save" in options:
        saver.begin(WARM_STEPS + steps)
        saver.finish()
    saver.close()
    comm.close()
    return found if comm.rank == 0 else {}


def _late(began: float, options: Mapping[str, Any]) -> torch.Tensor:
    return torch.tensor(
        [float(time.perf_counter() - began > options["seconds"])], dtype=torch.float64
    )


def gensim(shards: Path, options: Mapping[str, Any]) -> Figures:  # noqa: ARG001
    """gensim's Word2Vec in its fastest form: from a file, one worker; its own vocabulary, outside
    of the time."""
    from gensim.models import Word2Vec

    settings = {
        "vector_size": DIMENSION,
        "window": WINDOW,
        "negative": NEGATIVES,
        "ns_exponent": EXPONENT,
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sentences.txt"
        tokens, pairs = sentences(shards, path, GENSIM_TOKENS)
        model = Word2Vec(
            **settings,
            sg=1,
            hs=0,
            min_count=1,
            sample=0,
            shrink_windows=False,
            workers=1,
            seed=SEED,
        )
        model.build_vocab(corpus_file=str(path))
        began = time.perf_counter()
        model.train(
            corpus_file=str(path), total_words=tokens, total_examples=model.corpus_count, epochs=1
        )
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "item_pairs": pairs, "pairs": pairs}


def naive(shards: Path, options: Mapping[str, Any]) -> Figures:
    """What one writes first in PyTorch: two sparse Embeddings, own negatives for each pair,
    SparseAdam; pairs expanded beforehand."""
    torch.set_num_threads(1)
    manifest = item_alone(Manifest.read(shards))
    factory = TaskFactory(shards, manifest, Train(batch_pairs=2_000_000), SEED, LocalComm())
    (task,) = factory.tasks()
    centres, contexts, _ = (torch.from_numpy(part) for part in expand(task.read(0)[0][1], WINDOW))
    nodes = manifest.views[ITEM_VIEW].vocabulary.nodes
    noise = torch.from_numpy(factory.item_counts).double() ** EXPONENT
    into, out = (torch.nn.Embedding(nodes, DIMENSION, sparse=True) for _ in range(2))
    optimiser = torch.optim.SparseAdam([*into.parameters(), *out.parameters()], lr=NAIVE_RATE)
    began, done = time.perf_counter(), 0
    for first in range(0, len(centres) - NAIVE_PAIRS, NAIVE_PAIRS):
        part = slice(first, first + NAIVE_PAIRS)
        drawn = torch.multinomial(noise, NAIVE_PAIRS * NEGATIVES, replacement=True).view(
            NAIVE_PAIRS, NEGATIVES
        )
        a, b, z = into(centres[part]), out(contexts[part]), out(drawn)
        loss = F.softplus(-(a * b).sum(1)).sum() + F.softplus((z @ a.unsqueeze(2)).squeeze(2)).sum()
        optimiser.zero_grad()
        (loss / NAIVE_PAIRS).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        done += NAIVE_PAIRS
        if time.perf_counter() - began > options["seconds"]:
            break
    return {"seconds": time.perf_counter() - began, "item_pairs": done, "pairs": done}


ENGINES: dict[str, Callable[[Path, Mapping[str, Any]], Figures]] = {
    "m2grl": ours,
    "gensim": gensim,
    "naive": naive,
}

if __name__ == "__main__":
    figures = ENGINES[sys.argv[1]](Path(sys.argv[2]), json.loads(sys.argv[3]))
    if figures:
        print(json.dumps(figures))
