"""A Spark cluster, an S3 server and HDFS, of processes on this machine, and the jobs sent to them."""

import json
import os
import socket
import subprocess
import tarfile
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark

from pipeline.files import write_text
from pipeline.places import place

DIST = Path(os.environ.get("M2GRL_DIST", "build/dist"))
SPARK = Path(pyspark.__file__).parent
WORKERS = 2
PATIENCE = 300
"""Seconds that a process may take to answer."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@contextmanager
def process(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is ended at the end, with its output in a file."""
    with log.open("wb") as out:
        started = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | dict(environment or {}))
        try:
            yield started
        finally:
            started.terminate()
            started.wait(PATIENCE)


@contextmanager
def spark_cluster(folder: Path) -> Iterator[str]:
    """A standalone master and its workers, of one core and a gigabyte each and with a folder of their own; yields the master's URL."""
    port, page = free_port(), free_port()
    master = f"spark://127.0.0.1:{port}"
    daemons = str(SPARK / "bin" / "spark-class"), "org.apache.spark.deploy"
    settings = {"SPARK_DAEMON_MEMORY": "256m", "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(SPARK)}
    ports = ["--host", "127.0.0.1", "--webui-port"]
    with ExitStack() as running:
        command = [daemons[0], f"{daemons[1]}.master.Master", "--port", str(port), *ports, str(page)]
        running.enter_context(process(command, folder / "master.log", settings))
        for number in range(WORKERS):
            work = folder / f"worker-{number}"
            work.mkdir()
            own = ["--cores", "1", "--memory", "1g", "--work-dir", str(work), *ports, "0", master]
            log = folder / f"worker-{number}.log"
            running.enter_context(
                process([daemons[0], f"{daemons[1]}.worker.Worker", *own], log, settings | {"SPARK_LOCAL_DIRS": str(work / "local")})
            )
        wait_for(lambda: alive(page) == WORKERS, f"workers to register with {master}: see {folder}/*.log")
        yield master


def alive(page: int) -> int:
    """Workers that the master knows."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{page}/json/", timeout=5) as answer:
            return int(json.load(answer)["aliveworkers"])
    except OSError:
        return 0


@contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[dict[str, str]]:
    """A server of the S3 protocol with one bucket; yields the environment variables that let a job find it."""
    port = free_port()
    (folder / "store" / bucket).mkdir(parents=True)
    access = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
    keys = ["--access", access["AWS_ACCESS_KEY_ID"], "--secret", access["AWS_SECRET_ACCESS_KEY"]]
    command = [os.environ["M2GRL_S3_SERVER"], "--port", f"127.0.0.1:{port}", *keys, "posix", str(folder / "store")]
    with process(command, folder / "s3.log"):
        wait_for(lambda: listening(port), f"the S3 server: see {folder}/s3.log")
        yield access | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


@contextmanager
def hdfs(folder: Path) -> Iterator[tuple[str, Path]]:
    """A NameNode and a DataNode with nothing in them; yields the URI of the file system, and the folder with the cluster's settings."""
    name = free_port()
    settings = {
        "fs.defaultFS": f"hdfs://127.0.0.1:{name}",
        "dfs.replication": "1",
        "dfs.namenode.name.dir": f"file://{folder}/name",
        "dfs.namenode.http-address": "127.0.0.1:0",
        "dfs.datanode.data.dir": f"file://{folder}/data",
        "dfs.datanode.address": "127.0.0.1:0",
        "dfs.datanode.ipc.address": "127.0.0.1:0",
        "dfs.datanode.http.address": "127.0.0.1:0",
    }
    properties = "".join(f"<property><name>{key}</name><value>{value}</value></property>" for key, value in settings.items())
    (folder / "conf").mkdir()
    for file in ("core-site.xml", "hdfs-site.xml"):
        (folder / "conf" / file).write_text(f"<configuration>{properties}</configuration>", encoding="utf-8")
    classes = {"CLASSPATH": f"{folder}/conf:{os.environ['M2GRL_HDFS_JARS']}/*:{SPARK}/jars/*"}
    java = [f"{os.environ['JAVA_HOME']}/bin/java" if "JAVA_HOME" in os.environ else "java", "-Xmx256m"]
    servers = {part: f"org.apache.hadoop.hdfs.server.{part.lower()}.{part}" for part in ("NameNode", "DataNode")}
    run([*java, servers["NameNode"], "-format", "-nonInteractive"], classes)
    with process([*java, servers["NameNode"]], folder / "name.log", classes):
        wait_for(lambda: listening(name), f"the NameNode: see {folder}/name.log")
        with process([*java, servers["DataNode"]], folder / "data.log", classes):
            wait_for(lambda: writable(settings["fs.defaultFS"]), f"the DataNode: see {folder}/data.log")
            yield settings["fs.defaultFS"], folder / "conf"


def writable(store: str) -> bool:
    """Whether a file can be written; not before a DataNode has told the NameNode of itself."""
    try:
        write_text(place(f"{store}/tmp/written"), "text")
    except OSError:
        return False
    return True


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


def preprocess_on(master: str, folder: Path, arguments: Sequence[object], conf: Mapping[str, str] | None = None) -> str:
    """The same on a cluster; returns what it printed.

    Driver and executors run a Python without a package, made in `folder`, with what `make dist` packed and Spark's own, and nothing else.
    """
    venv.create(folder / "python", symlinks=True)
    with tarfile.open(DIST / "environment.tar.gz") as packed:
        packed.extractall(folder / "environment", filter="data")
    options = ["--master", master, "--executor-memory", "768m", "--driver-memory", "1g", "--py-files", str(DIST / "m2grl.zip")]
    options += ["--archives", f"{DIST}/environment.tar.gz#environment", *_settings({"spark.executorEnv.PYTHONPATH": "environment"})]
    own = {"PYTHONPATH": str(folder / "environment"), "SPARK_HOME": str(SPARK)}
    own |= dict.fromkeys(("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"), str(folder / "python" / "bin" / "python"))
    return run(["spark-submit", *options, *_settings(conf or {}), "jobs/preprocess.py", *map(str, arguments)], own)


def _settings(conf: Mapping[str, str]) -> list[str]:
    return [option for name, value in conf.items() for option in ("--conf", f"{name}={value}")]


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """A job to its end, which must be a good one; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | dict(environment or {}))
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
