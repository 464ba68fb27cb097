"""One process at a time writes a project's folder, and a dead one is no obstacle."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.storage.lock import one_writer

HOLD = """
import sys, time
from pathlib import Path
from pipeline.storage.lock import one_writer
with one_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_told_of_the_first_until_that_is_killed(tmp_path: Path) -> None:
    root = tmp_path / "shop"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(
                PipelineError, match=rf"process {first.pid} is writing {root}; let it end"
            ),
            one_writer(root),
        ):
            pytest.fail("two processes write one folder")
        first.send_signal(signal.SIGKILL)
        first.wait()
        with one_writer(root):
            pass
