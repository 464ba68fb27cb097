"""A Spark cluster and an S3 server of processes on this machine, and the jobs sent to them and to
hadoop.py's."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyspark

DIST = Path(os.environ.get("M2GRL_DIST", "build/dist"))
SPARK = Path(pyspark.__file__).parent
WORKERS = 2
SENT = [
    *("--executor-memory", "768m", "--driver-memory", "1g"),
    *("--py-files", f"{DIST}/m2grl.zip", "--archives", f"{DIST}/environment.tar.gz#environment"),
]
"""How large a job is, and what goes with it."""
PATIENCE = 300
"""Seconds that a process may take to answer."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@contextmanager
def process(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is ended at the end, with its output in a file."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            command, stdout=out, stderr=out, env=os.environ | dict(environment or {})
        )
        try:
            yield started
        finally:
            started.terminate()
            started.wait(PATIENCE)


@contextmanager
def spark_cluster(folder: Path) -> Iterator[str]:
    """A standalone master and its workers, of one core and a gigabyte each and with a folder of
    their own; yields the master's URL."""
    port, page = free_port(), free_port()
    master = f"spark://127.0.0.1:{port}"
    daemons = str(SPARK / "bin" / "spark-class"), "org.apache.spark.deploy"
    settings = {
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_HOME": str(SPARK),
    }
    ports = ["--host", "127.0.0.1", "--webui-port"]
    with ExitStack() as running:
        command = [
            daemons[0],
            f"{daemons[1]}.master.Master",
            "--port",
            str(port),
            *ports,
            str(page),
        ]
        running.enter_context(process(command, folder / "master.log", settings))
        for number in range(WORKERS):
            work = folder / f"worker-{number}"
            work.mkdir()
            own = ["--cores", "1", "--memory", "1g", "--work-dir", str(work), *ports, "0", master]
            log = folder / f"worker-{number}.log"
            running.enter_context(
                process(
                    [daemons[0], f"{daemons[1]}.worker.Worker", *own],
                    log,
                    settings | {"SPARK_LOCAL_DIRS": str(work / "local")},
                )
            )
        wait_for(
            lambda: alive(page) == WORKERS, f"workers to register with {master}: see {folder}/*.log"
        )
        yield master


def alive(page: int) -> int:
    """Workers that the master knows."""
    return int(told(f"http://127.0.0.1:{page}/json/").get("aliveworkers", 0))


def told(url: str) -> dict[str, Any]:
    """What a server says of itself; nothing while it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return dict(json.load(answer))
    except OSError:
        return {}


@contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[dict[str, str]]:
    """A server of the S3 protocol with one bucket; yields the environment variables that let a job
    find it."""
    port = free_port()
    (folder / "store" / bucket).mkdir(parents=True)
    access = {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "us-east-1",
    }
    keys = ["--access", access["AWS_ACCESS_KEY_ID"], "--secret", access["AWS_SECRET_ACCESS_KEY"]]
    command = [
        os.environ["M2GRL_S3_SERVER"],
        "--port",
        f"127.0.0.1:{port}",
        *keys,
        "posix",
        str(folder / "store"),
    ]
    with process(command, folder / "s3.log"):
        wait_for(lambda: listening(port), f"the S3 server: see {folder}/s3.log")
        yield access | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


def listening(port: int) -> bool:
    """Whether somebody accepts connections."""
    with socket.socket() as opened:
        return opened.connect_ex(("127.0.0.1", port)) == 0


def wait_for(done: Callable[[], bool], what: str) -> None:
    """Asks until the answer is yes."""
    until = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < until, f"waited {PATIENCE} s for {what}"
        time.sleep(0.5)


def preprocess(arguments: Sequence[object], conf: Mapping[str, str] | None = None) -> str:
    """`spark-submit jobs/preprocess.py` in this machine's Spark; returns what it printed."""
    return run(["spark-submit", *_settings(conf or {}), "jobs/preprocess.py", *map(str, arguments)])


def preprocess_on(
    master: str, folder: Path, arguments: Sequence[object], conf: Mapping[str, str] | None = None
) -> str:
    """The same on a cluster; returns what it printed.

    Driver and executors run a Python without a package, made in `folder`, with what `make dist`
    packed and Spark's own, and nothing else.
    """
    shutil.unpack_archive(DIST / "environment.tar.gz", folder / "environment")
    options = [
        "--master",
        master,
        *SENT,
        *_settings({"spark.executorEnv.PYTHONPATH": "environment"}),
    ]
    own = {"PYTHONPATH": str(folder / "environment"), "SPARK_HOME": str(SPARK)}
    own |= dict.fromkeys(("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"), bare_python(folder))
    return run(
        [
            "spark-submit",
            *options,
            *_settings(conf or {}),
            "jobs/preprocess.py",
            *map(str, arguments),
        ],
        own,
    )


def preprocess_on_yarn(
    settings: Path, user: str, folder: Path, config: Path, arguments: Sequence[object]
) -> None:
    """The same on YARN with the driver there too, by the command of docs/cluster.md, but for
    Delta's jars, which this machine's settings name, and Spark's own, which are on every machine of
    this cluster. What the driver prints stays in its container's files."""
    python = bare_python(folder)
    there = {
        "PYTHONPATH": "environment",
        "HADOOP_CONF_DIR": "__spark_conf__/__hadoop_conf__",
        "HADOOP_USER_NAME": user,
    }
    conf = {
        f"{where}.{name}": value
        for where in ("spark.yarn.appMasterEnv", "spark.executorEnv")
        for name, value in there.items()
    }
    # A run that fails is not to be tried again.
    conf |= {
        "spark.yarn.appMasterEnv.PYSPARK_PYTHON": python,
        "spark.yarn.jars": f"local:{SPARK}/jars/*",
        "spark.yarn.maxAppAttempts": "1",
    }
    options = [
        "--master",
        "yarn",
        "--deploy-mode",
        "cluster",
        *SENT,
        "--num-executors",
        "2",
        "--files",
        str(config),
        *_settings(conf),
    ]
    own = {
        "HADOOP_CONF_DIR": str(settings),
        "HADOOP_USER_NAME": user,
        "SPARK_HOME": str(SPARK),
        "PYSPARK_PYTHON": python,
    }
    run(["spark-submit", *options, "jobs/preprocess.py", config.name, *map(str, arguments)], own)


def bare_python(folder: Path) -> str:
    """A Python without a package."""
    venv.create(folder / "python", symlinks=True)
    return str(folder / "python" / "bin" / "python")


def _settings(conf: Mapping[str, str]) -> list[str]:
    return [option for name, value in conf.items() for option in ("--conf", f"{name}={value}")]


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """A job to its end, which must be a good one; returns what it printed."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | dict(environment or {}),
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
