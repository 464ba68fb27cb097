"""Writes what a run learned as one HTML page: `python jobs/report.py CONFIG.toml`."""

from collections.abc import Sequence

from jobs.common.config import parse
from jobs.common.failures import failing_clearly
from jobs.reporting.page import write_page
from jobs.reporting.records import ReportError, read_inputs
from jobs.reporting.summary import summary
from jobs.reporting.tables import console
from jobs.similarity.catalogue import EvaluationError
from pipeline.config import Section
from pipeline.contracts.shards import ManifestError

JOB = "report.py"


class Options(Section):
    """Writes report.html from what the other jobs wrote: data, figures beside the baselines, course
    of the training, neighbours."""

    data: bool = False
    """Write data.html instead, of what preprocess.py wrote alone: the way from raw rows to pairs,
    histograms, the paper's Table 1."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with 1 and one message where it cannot be done."""
    project, options = parse(JOB, Options(), arguments)
    page = project.paths.data_report if options.data else project.paths.report
    with failing_clearly(JOB, page, ManifestError, EvaluationError, ReportError):
        inputs = read_inputs(project, data_alone=options.data)
        write_page(page, inputs)
    console().print(summary(inputs, page), highlight=False)


if __name__ == "__main__":
    main()
