"""Writes what a run learned as one HTML page: `python jobs/report.py CONFIG.toml`."""

import sys
from collections.abc import Sequence

from jobs.config import parse
from jobs.evaluation.catalogue import EvaluationError
from jobs.evaluation.report import console
from jobs.reporting.page import write_page
from jobs.reporting.records import ReportError, read_inputs
from jobs.reporting.summary import summary
from pipeline.config import Section
from pipeline.manifest import ManifestError

JOB = "report.py"


class Options(Section):
    """Writes report.html from what the other jobs wrote: data, figures beside the baselines, course of the training, neighbours."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with 1 and one message where it cannot be done."""
    project, _ = parse(JOB, Options(), arguments)
    try:
        inputs = read_inputs(project)
        write_page(project.paths.report, inputs)
    except (ManifestError, EvaluationError, ReportError) as error:
        sys.exit(f"{JOB}: {error}")
    console().print(summary(inputs, project.paths.report), highlight=False)


if __name__ == "__main__":
    main()
