"""What a setting of the trainer does to quality: `python -m tests.bench.quality STUDY`, once its projects have been preprocessed.

Every variant is trained with every seed from the same shards and judged by jobs/evaluate.py, as a user would. Trainings that have ended
are not repeated, so a study that was cut off goes on. Figures go to build/bench/quality/STUDY.json.
"""

import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from jobs.evaluation.measures import NEXT_FIGURES
from pipeline.files import write_text
from tests.bench.conditions import measured_on

PACKAGES = ("torch", "numpy")
FIGURES = ("hit_rate", *NEXT_FIGURES)
"""Of evaluation.json: users; next items; rare next items."""
SCORES = ("cosine", "conditional")
LINKED = ("shards", "heldout", "statistics.json")
"""What a variant takes from its project's own run."""
Settings = dict[str, Any]

STUDIES: dict[str, dict[str, Settings]] = {
    "step": {"fast": {"step": "fast"}, "exact": {"step": "exact"}},
    "batch": {f"{pairs // 1024} k pairs": {"batch_pairs": pairs} for pairs in (16_384, 65_536, 262_144, 524_288)},
    "optimiser": {
        "adagrad 0.5": {"optimiser": "adagrad", "learning_rate": 0.5},
        "adagrad 0.3": {"optimiser": "adagrad", "learning_rate": 0.3},
        "adam 0.01": {"optimiser": "adam", "learning_rate": 0.01},
        "adam 0.003": {"optimiser": "adam", "learning_rate": 0.003},
    },
}
"""Study -> variant -> settings of [train]; the first variant is the one that the others are compared to."""


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
    train: dict[str, str] = field(default_factory=dict)
    """Settings of [train] for all variants, such as `--train epochs 5`."""
    folder: Path = Path("build/bench/quality")


@dataclass(frozen=True)
class Trained:
    """One training."""

    project: str
    variant: str
    seed: int
    settings: Settings
    root: Path
    """Output folder of its own."""

    @property
    def config(self) -> str:
        """The project's file."""
        return f"jobs/configs/{self.project}.toml"

    def run(self, log: Path) -> None:
        """Trains, exports and judges; what has been done is left as it is. Raises RuntimeError naming the log of what failed."""
        folder = self.root / self.project
        folder.mkdir(parents=True, exist_ok=True)
        for name in LINKED:
            if not (folder / name).exists():
                (folder / name).symlink_to(Path("build").absolute() / self.project / name)
        chosen = [f"--output={self.root}", f"--seed={self.seed}", *(f"--train.{name}={value}" for name, value in self.settings.items())]
        done = folder / "trained.json"
        if not done.exists() or json.loads(done.read_text(encoding="utf-8"))["settings"] != self.settings:
            began = time.monotonic()
            self._job("train", chosen, log)
            self._job("export", chosen, log)
            write_text(done, json.dumps({"settings": self.settings, "seconds": time.monotonic() - began}) + "\n")
        self._job("evaluate", [*chosen, "--evaluate.bootstrap=0"], log)

    def _job(self, job: str, chosen: list[str], log: Path) -> None:
        with log.open("a", encoding="utf-8") as output:
            command = [sys.executable, f"jobs/{job}.py", self.config, *chosen]
            if subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode:
                raise RuntimeError(f"{' '.join(command)} failed; see {log}")

    def figures(self) -> dict[str, float | None]:
        """Figure -> its value in per cent; none where there was no such case."""
        models = json.loads((self.root / self.project / "evaluation.json").read_text(encoding="utf-8"))["models"]
        found = {(score, name): models[f"M2GRL {score}"][name]["value"] for score in SCORES for name in FIGURES}
        return {f"{score}: {name}": None if value is None else 100 * value for (score, name), value in found.items()}


def main() -> None:
    """Runs a study; prints and writes its table."""
    options = tyro.cli(Options, description=__doc__)
    root = options.folder / options.study
    runs = [
        Trained(project, variant, seed, {**options.train, **settings}, root.absolute() / variant.replace(" ", "-") / str(seed))
        for seed in options.seeds
        for project in options.projects
        for variant, settings in STUDIES[options.study].items()
    ]
    root.mkdir(parents=True, exist_ok=True)
    began = measured_on(PACKAGES)
    with ThreadPoolExecutor(options.at_once) as pool:
        for number, run in enumerate(pool.map(lambda run: _told(run, root), runs)):
            print(f"{number + 1} of {len(runs)}: {run}", flush=True)
    figures = [{"project": run.project, "variant": run.variant, "seed": run.seed, "figures": run.figures()} for run in runs]
    write_text(options.folder / f"{options.study}.json", json.dumps({**began, "train": options.train, "runs": figures}, indent=2) + "\n")
    for project in options.projects:
        Console(width=150).print(_table(project, [run for run in runs if run.project == project]))


def _told(run: Trained, root: Path) -> str:
    run.run(root / f"{run.project}-{run.variant.replace(' ', '-')}-{run.seed}.log")
    return f"{run.project}, {run.variant}, seed {run.seed}"


def _table(project: str, runs: list[Trained]) -> Table:
    """Means over the seeds (standard deviation), per cent."""
    shown = Table(title=f"{project}: HitRate@50, per cent, mean over {len({run.seed for run in runs})} seeds (standard deviation)")
    shown.add_column("variant")
    names = list(runs[0].figures())
    for name in names:
        shown.add_column(name, justify="right")
    for variant in dict.fromkeys(run.variant for run in runs):
        found = [run.figures() for run in runs if run.variant == variant]
        shown.add_row(variant, *(_summed([one[name] for one in found]) for name in names))
    return shown


def _summed(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{statistics.mean(known):.2f}" + (f" ({statistics.stdev(known):.2f})" if len(known) > 1 else "")


if __name__ == "__main__":
    main()
