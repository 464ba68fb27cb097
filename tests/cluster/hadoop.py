"""HDFS and YARN of processes on this machine."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.storage.files import write_text
from pipeline.storage.locations import location
from tests.cluster.machines import SPARK, free_port, listening, process, run, told, wait_for


@contextmanager
def hadoop(folder: Path) -> Iterator[tuple[str, Path]]:
    """HDFS with nothing in it and YARN, a server and a worker of each; yields HDFS's URI, and the
    folder with the cluster's settings."""
    store, page = f"hdfs://127.0.0.1:{free_port()}", free_port()
    settings = folder / "settings"
    settings.mkdir()
    for file, properties in _hadoop_settings(folder, store, page).items():
        found = "".join(
            f"<property><name>{name}</name><value>{value}</value></property>"
            for name, value in properties.items()
        )
        (settings / file).write_text(f"<configuration>{found}</configuration>", encoding="utf-8")
    classes = {"CLASSPATH": f"{settings}:{os.environ['M2GRL_HADOOP_JARS']}/*:{SPARK}/jars/*"}
    java = [
        f"{os.environ['JAVA_HOME']}/bin/java" if "JAVA_HOME" in os.environ else "java",
        "-Xmx256m",
    ]
    run(
        [*java, "org.apache.hadoop.hdfs.server.namenode.NameNode", "-format", "-nonInteractive"],
        classes,
    )
    parts = "hdfs.server.namenode.NameNode", "hdfs.server.datanode.DataNode"
    parts += "yarn.server.resourcemanager.ResourceManager", "yarn.server.nodemanager.NodeManager"
    with ExitStack() as running:
        for part in parts:
            running.enter_context(
                process([*java, f"org.apache.hadoop.{part}"], folder / f"{part}.log", classes)
            )
        wait_for(
            lambda: listening(int(store.rsplit(":", 1)[1])), f"the NameNode: see {folder}/*.log"
        )
        wait_for(lambda: writable(store), f"the DataNode: see {folder}/*.log")
        wait_for(lambda: managers(page) == 1, f"the NodeManager: see {folder}/*.log")
        yield store, settings


def _hadoop_settings(folder: Path, store: str, page: int) -> dict[str, dict[str, str]]:
    """File -> its properties. Ports that nobody has to know are any that are free."""
    free = "127.0.0.1:0"

    def used() -> str:
        return f"127.0.0.1:{free_port()}"

    scheduler = {
        "root.queues": "default",
        "root.default.capacity": "100",
        "maximum-am-resource-percent": "1",
    }
    return {
        "core-site.xml": {"fs.defaultFS": store},
        "hdfs-site.xml": {
            "dfs.replication": "1",
            "dfs.namenode.name.dir": f"file://{folder}/name",
            "dfs.namenode.http-address": free,
            "dfs.datanode.data.dir": f"file://{folder}/data",
            **{f"dfs.datanode.{part}address": free for part in ("", "ipc.", "http.")},
        },
        "yarn-site.xml": {
            "yarn.resourcemanager.hostname": "127.0.0.1",
            "yarn.resourcemanager.webapp.address": f"127.0.0.1:{page}",
            **{
                f"yarn.resourcemanager.{part}address": used()
                for part in ("", "scheduler.", "resource-tracker.", "admin.")
            },
            "yarn.nodemanager.hostname": "127.0.0.1",
            **{f"yarn.nodemanager.{part}address": free for part in ("", "webapp.")},
            "yarn.nodemanager.localizer.address": used(),
            "yarn.nodemanager.local-dirs": f"{folder}/local",
            "yarn.nodemanager.log-dirs": f"{folder}/containers",
            "yarn.nodemanager.resource.memory-mb": "6000",
            "yarn.nodemanager.vmem-check-enabled": "false",
            "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": "100",
            "yarn.scheduler.minimum-allocation-mb": "128",
        },
        "capacity-scheduler.xml": {
            f"yarn.scheduler.capacity.{name}": value for name, value in scheduler.items()
        },
    }


def managers(page: int) -> int:
    """NodeManagers that the ResourceManager knows and runs containers on."""
    return int(
        told(f"http://127.0.0.1:{page}/ws/v1/cluster/metrics")
        .get("clusterMetrics", {})
        .get("activeNodes", 0)
    )


def writable(store: str) -> bool:
    """Whether a file can be written; not before a DataNode has told the NameNode of itself."""
    try:
        write_text(location(f"{store}/tmp/written"), "text")
    except OSError:
        return False
    return True
