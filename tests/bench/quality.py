"""What a setting does to quality: `python -m tests.bench.quality STUDY`, once its projects have
been preprocessed.

Every variant is trained with every seed from the same shards and judged by jobs/evaluate.py, as a
user would. Where a variant leaves the learning rate open, the one is taken that reaches the best
HitRate on the validation users with the first seed; a project with few such users takes the one
that is best for the others. Nothing is chosen by what is judged. Trainings that have ended are not
repeated, so a study that was cut off goes on. Figures go to build/bench/quality/STUDY.json.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from jobs.common.config import Paths
from jobs.evaluation.metrics.registry import NEXT_FIGURES
from pipeline.contracts.training import RECORDS
from pipeline.storage.files import code_version, write_text
from tests.bench.conditions import measured_on
from trainer.monitoring.early_stopping import Validated
from trainer.training import shards_hash

PACKAGES = ("torch", "numpy")
FIGURES = ("hit_rate", *NEXT_FIGURES)
"""Of evaluation.json: users; next items; rare next items."""
SCORES = ("cosine", "conditional", "inner")
VALIDATION_CASES = 5000
"""Next items of the validation users by which a rate is chosen: the mean of the HitRates by cosine
and by the conditional score."""
ENOUGH_CASES = 500
"""Validation cases from which a project chooses a rate of its own: 2 points of standard error."""
LINKED = ("shards", "heldout", "statistics.json")
"""What a variant takes from its project's own run, unless it changes what preprocessing does."""
RATE = "train.learning_rate"
Settings = dict[str, Any]
"""Option -> its value; a tuple of learning rates: the best of them is to be found."""

ADAGRAD, ADAM = (0.1, 0.2, 0.5, 1.0), (0.001, 0.003, 0.01, 0.03)
STUDIES: dict[str, dict[str, Settings]] = {
    "step": {
        "fast": {"train.step": "fast", RATE: ADAGRAD},
        "exact": {"train.step": "exact", RATE: ADAGRAD},
    },
    "rate": {f"rate {rate}": {RATE: rate} for rate in (0.05, 0.1, 0.2, 0.5, 1.0)},
    "batch": {
        f"{pairs // 1024} k pairs": {"train.batch_pairs": pairs, RATE: ADAGRAD}
        for pairs in (16_384, 65_536, 131_072, 262_144, 524_288)
    },
    "optimiser": {
        "row-wise Adagrad": {"train.optimiser": "adagrad", RATE: ADAGRAD},
        "Adam": {"train.optimiser": "adam", RATE: ADAM},
    },
    "inner": {
        "as configured": {},
        **{
            f"weight decay {share}": {"train.weight_decay": share}
            for share in (0.0003, 0.003, 0.03)
        },
        **{f"longest {length}": {"train.max_norm": length} for length in (1.0, 2.0)},
        **{f"{epochs} epochs": {"train.epochs": epochs} for epochs in (2, 5)},
    },
    "minimum-count": {
        f"minimum count {count}": {"views.item.minimum_count": count} for count in (1, 2, 5, 10, 20)
    },
}
"""Study -> variant -> settings; the first variant is the one that the others are compared to."""


@dataclass(frozen=True)
class Options:
    """Train variants with several seeds, judge them, compare them."""

    study: tyro.conf.Positional[str]
    """One of the studies in this file."""
    projects: tuple[str, ...] = ("ml-latest-small", "globo", "completejourney")
    """Projects of jobs/configs whose output lies under build/."""
    seeds: tuple[int, ...] = (1, 2, 3)
    at_once: int = 2
    """Trainings side by side, each with one thread."""
    settings: dict[str, str] = field(default_factory=dict)
    """Options for all variants, such as `--settings train.epochs 5`; they overrule the study's
    own."""
    name: str = ""
    """Of the file with the figures; none: the study's."""
    folder: Path = Path("build/bench/quality")


@dataclass(frozen=True)
class Trained:
    """One training."""

    project: str
    variant: str
    seed: int
    settings: Settings
    root: Path
    """The study's folder."""

    @property
    def rate(self) -> str:
        """The learning rate, or that it is the project's own."""
        return (
            f"rate {float(self.settings[RATE]):g}"
            if RATE in self.settings
            else "rate as configured"
        )

    @property
    def folder(self) -> Path:
        """Its own output, like the project's."""
        return self._output / self.project

    @property
    def _output(self) -> Path:
        return (
            self.root
            / self.variant.replace(" ", "-")
            / self.rate.replace(" ", "-")
            / str(self.seed)
        )

    @property
    def log(self) -> Path:
        """What its jobs say."""
        return self.root / f"{self.project}-{self.variant}-{self.rate}-{self.seed}.log".replace(
            " ", "-"
        )

    @property
    def done(self) -> Path:
        """What was trained; there once it is done."""
        return self.folder / "trained.json"

    def train(self) -> None:
        """Trains; what has been done, from these very shards, is left as it is. Raises RuntimeError
        naming the log of what failed."""
        self._link()
        asked = {"settings": self.settings, "shards": shards_hash(Paths(self.folder).shards)}
        if (
            self.done.exists()
            and json.loads(self.done.read_text(encoding="utf-8")).get("asked") == asked
        ):
            return
        self.done.unlink(missing_ok=True)
        began = time.monotonic()
        self._job("train")
        told = {
            "asked": asked,
            "code_version": code_version(),
            "seconds": round(time.monotonic() - began, 1),
        }
        write_text(self.done, json.dumps(told) + "\n")

    def attempt(self) -> None:
        """Trains, to see how good its rate is. One at which training fails is no error."""
        try:
            self.train()
        except RuntimeError as error:
            print(error, flush=True)

    def judge(self) -> None:
        """Trains, exports and evaluates."""
        self.train()
        self._job("export")
        self._job("evaluate", "--evaluate.bootstrap=0")

    def _link(self) -> None:
        """To the shards that all seeds and rates of a variant train on."""
        own = {
            name: value for name, value in self.settings.items() if not name.startswith("train.")
        }
        source = Path("build").absolute() / self.project
        if own:
            source = self.root / self.variant.replace(" ", "-") / "shards" / self.project
            if not (source / "statistics.json").exists():
                self._run("spark-submit", "preprocess", f"--output={source.parent}", *_told(own))
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in LINKED:
            if not (self.folder / name).exists():
                (self.folder / name).symlink_to(source / name)

    def _job(self, job: str, *more: str) -> None:
        self._run(
            sys.executable,
            job,
            f"--output={self._output}",
            f"--seed={self.seed}",
            *_told(self.settings),
            *more,
        )

    def _run(self, *command: str) -> None:
        program, job, *chosen = command
        whole = [program, f"jobs/{job}.py", f"jobs/configs/{self.project}.toml", *chosen]
        with self.log.open("a", encoding="utf-8") as output:
            if subprocess.run(
                whole, stdout=output, stderr=subprocess.STDOUT, check=False
            ).returncode:
                raise RuntimeError(f"{' '.join(whole)} failed; see {self.log}")

    def validated(self) -> Validated:
        """The last measurement on the validation users."""
        records = map(
            json.loads,
            (Paths(self.folder).model / RECORDS).read_text(encoding="utf-8").splitlines(),
        )
        last = [record for record in records if "hit_rate" in record][-1]
        return Validated.model_validate({name: last[name] for name in Validated.model_fields})

    @property
    def hit_rate(self) -> float:
        """Mean HitRate on the validation users at the end of training, over the scores; 0 where
        training failed."""
        if not self.done.exists():
            return 0.0
        return statistics.mean(self.validated().hit_rate.values())

    def figures(self) -> dict[str, float | None]:
        """Figure -> its value in per cent; none where there was no such case."""
        models = json.loads(Paths(self.folder).evaluation.read_text(encoding="utf-8"))["models"]
        found = {
            (score, name): models[f"M2GRL {score}"][name]["value"]
            for score in SCORES
            for name in FIGURES
        }
        return {
            f"{score}: {name}": None if value is None else 100 * value
            for (score, name), value in found.items()
        }


def _told(settings: Settings) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


def main() -> None:
    """Runs a study; prints and writes its table."""
    options = tyro.cli(Options, description=__doc__)
    root = (options.folder / options.study).absolute()
    root.mkdir(parents=True, exist_ok=True)
    began = measured_on(PACKAGES)
    asked = [
        Trained(
            project,
            variant,
            options.seeds[0],
            {"train.validation_cases": VALIDATION_CASES, **settings, **options.settings},
            root,
        )
        for project in options.projects
        for variant, settings in STUDIES[options.study].items()
    ]
    tried = [_with_rates(run) for run in asked]
    _all(
        options.at_once,
        Trained.attempt,
        [one for rates in tried for one in rates if len(rates) > 1],
    )
    best = [
        _best(rates, [others for others in tried if others[0].variant == rates[0].variant])
        for rates in tried
    ]
    runs = [replace(run, seed=seed) for seed in options.seeds for run in best]
    _all(options.at_once, Trained.judge, runs)
    report = {
        "settings": options.settings,
        "chosen by validation": [_validation(rates) for rates in tried if len(rates) > 1],
        "runs": [_summary(run) for run in runs],
    }
    write_text(
        options.folder / f"{options.name or options.study}.json",
        json.dumps(began | report, indent=2) + "\n",
    )
    for project in options.projects:
        Console(width=200).print(_table(project, [run for run in runs if run.project == project]))


def _with_rates(run: Trained) -> list[Trained]:
    """The run with each rate that it may have."""
    rates = run.settings.get(RATE)
    return (
        [replace(run, settings={**run.settings, RATE: rate}) for rate in rates]
        if isinstance(rates, tuple)
        else [run]
    )


def _best(rates: list[Trained], of_variant: list[list[Trained]]) -> Trained:
    """The one to be judged; of_variant: the same variant's of all projects."""
    if len(rates) == 1:
        return rates[0]
    enough = [
        runs
        for runs in of_variant
        if any(run.done.exists() and run.validated().cases >= ENOUGH_CASES for run in runs)
    ]
    asked = [rates] if rates in enough or not enough else enough
    return max(
        rates,
        key=lambda run: sum(one.hit_rate for runs in asked for one in runs if one.rate == run.rate),
    )


def _all(at_once: int, do: Callable[[Trained], None], runs: Iterable[Trained]) -> None:
    listed = list(runs)
    with ThreadPoolExecutor(at_once) as pool:
        for number, run in enumerate(pool.map(lambda one: (do(one), one)[1], listed)):
            print(
                (
                    f"{do.__name__} {number + 1} of {len(listed)}: {run.project}, {run.variant}, "
                    f"{run.rate}, seed {run.seed}"
                ),
                flush=True,
            )


def _validation(rates: list[Trained]) -> dict[str, Any]:
    return {
        "project": rates[0].project,
        "variant": rates[0].variant,
        "hit_rates": {run.rate: run.hit_rate for run in rates},
    }


def _summary(run: Trained) -> dict[str, Any]:
    named = {"project": run.project, "variant": run.variant, "seed": run.seed}
    return (
        named
        | json.loads(run.done.read_text(encoding="utf-8"))
        | {"validation": run.hit_rate, "figures": run.figures()}
    )


def _table(project: str, runs: list[Trained]) -> Table:
    """Means over the seeds (standard deviation), per cent."""
    shown = Table(
        title=(
            f"{project}: HitRate@50, per cent, mean over {len({run.seed for run in runs})} "
            "seeds (standard deviation)"
        )
    )
    shown.add_column("variant")
    shown.add_column("validation", justify="right")
    names = list(runs[0].figures())
    for name in names:
        shown.add_column(name, justify="right")
    for variant, rate in dict.fromkeys((run.variant, run.rate) for run in runs):
        of = [run for run in runs if run.variant == variant]
        found = [run.figures() for run in of]
        cells = [
            _summed([100 * run.hit_rate for run in of]),
            *(_summed([one[name] for one in found]) for name in names),
        ]
        shown.add_row(f"{variant}, {rate}", *cells)
    return shown


def _summed(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{statistics.mean(known):.2f}" + (
        f" ({statistics.stdev(known):.2f})" if len(known) > 1 else ""
    )


if __name__ == "__main__":
    main()
