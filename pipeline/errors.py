"""What the pipeline raises where it cannot go on. Needs no Spark."""


class PipelineError(Exception):
    """The message says what, where and what to do."""
