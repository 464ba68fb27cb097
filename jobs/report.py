"""Writes what a run learned as one HTML page: `python jobs/report.py CONFIG.toml`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.common.config import Project, parse
from jobs.common.failures import failing_clearly
from jobs.reporting.page import write_page
from jobs.reporting.records import Inputs, ReportError, read_inputs
from jobs.reporting.summary import summary
from jobs.reporting.tables import console
from jobs.similarity.catalogue import EvaluationError
from pipeline.config import Section
from pipeline.contracts.sealed import ManifestError

JOB = "report.py"


class Options(Section):
    """Writes report.html from what the other jobs wrote: data, figures beside the baselines, course
    of the training, neighbours."""

    data: bool = False
    """Write data.html instead, of what preprocess.py wrote alone: the way from raw rows to pairs,
    histograms, the paper's Table 1."""


@dataclass(frozen=True)
class Report:
    """A page that was written."""

    page: Path
    inputs: Inputs
    """What it tells, but for the neighbours."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with 1 and one message where it cannot be done."""
    project, options = parse(JOB, Options(), arguments)
    page = page_of(project, options)
    with failing_clearly(JOB, page, ManifestError, EvaluationError, ReportError):
        report = run(project, options)
    console().print(summary(report.inputs, report.page), highlight=False)


def run(project: Project, options: Options) -> Report:
    """Writes the page. Raises ManifestError, EvaluationError or ReportError naming the file that is
    absent, damaged or of another run."""
    page = page_of(project, options)
    inputs = read_inputs(project, data_alone=options.data)
    write_page(page, inputs)
    return Report(page, inputs)


def page_of(project: Project, options: Options) -> Path:
    """Where the page lies."""
    return project.paths.data_report if options.data else project.paths.report


if __name__ == "__main__":
    main()
