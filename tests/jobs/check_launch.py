"""A rank that is killed is started again by the launcher, and learns what it would have learned;
test_launch.py has one that is not started again, because its host is gone."""

import re
from pathlib import Path

import pytest

from tests.jobs.test_launch import Launched, checkpoints, project, wait_for_checkpoint
from trainer.checkpoints import files

__all__ = ["project"]
pytestmark = pytest.mark.timeout(1800)


def test_a_killed_rank_is_started_again_and_the_end_is_the_same(project: Path) -> None:
    options = ("--ranks=2", "--train.epochs=40")
    whole = Launched(project, *options)
    assert whole.end() == 0, whole.output
    expected = files.verified_manifest(files.newest_checkpoint(checkpoints(project)))
    run = Launched(project, *options, "--restarts=1")
    run.until("step ")
    wait_for_checkpoint(project)
    run.ranks()[-1].kill()
    assert run.end() == 0, run.output
    assert re.search(
        r"launch.py: rank \d on localhost was ended by SIGKILL: a rank was lost", run.output
    ), run.output
    assert re.search(r"starting again from step-\d+; 0 restarts left", run.output), run.output
    assert (
        files.verified_manifest(files.newest_checkpoint(checkpoints(project))).files
        == expected.files
    )
    assert "Traceback" not in run.output
