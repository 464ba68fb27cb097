"""The head of a file tells its columns: the header row of a CSV file, the schema in a Parquet
file's footer.

Each head is read once, from the driver, through Spark's file systems and codecs. A file that was
cut off or is no such file is found here, before any work is done, where its head shows it: a
Parquet file has its footer at the end.
"""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

from py4j.protocol import Py4JError
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from pipeline.config import Files
from pipeline.errors import PipelineError
from pipeline.log.source_paths import NO_DATA, NoFileError, resolve
from pipeline.spark import cause


class NoRowsError(PipelineError):
    """A table whose files are all empty."""


_BOM = "\u00ef\u00bb\u00bf"
"""UTF-8's byte order mark, its bytes read as Latin-1."""
_OPENERS = 16
"""Threads that open files: what they wait for is a remote store."""


def by_head(spark: SparkSession, files: Files) -> list[list[str]]:
    """The URIs of the files of a table (CSV, JSON or Parquet), those of one head together; JSON
    lines have none, so all of them.

    Empty CSV files have no rows and are left out. Raises PipelineError where no file is left, or
    one is broken.
    """
    uris = listed(spark, files)
    groups: dict[str, list[str]] = {}
    for uri, head in zip(uris, _heads(spark, files, uris), strict=True):
        if head is not None:
            groups.setdefault(head, []).append(uri)
    if not groups:
        raise NoRowsError(
            f"'{files.path}' holds no row: of its {len(uris)} files each is empty or ignored"
        )
    return list(groups.values())


def listed(spark: SparkSession, files: Files) -> list[str]:
    """The URIs of all files that Spark reads at a path, sorted. Raises NoFileError where there are
    none."""
    path = resolve(files.path)
    try:
        # A frame of text needs no schema: this lists and reads nothing.
        uris = spark.read.options(**files.options).text(path).inputFiles()
    except AnalysisException as error:
        kind = NoFileError if error.getCondition() == "PATH_NOT_FOUND" else PipelineError
        first_line = str(error.getMessage()).splitlines()[0]
        raise kind(f"there is no file '{path}': {first_line}; correct the path") from None
    if not uris:
        raise NoFileError(f"'{path}' {NO_DATA}")
    return sorted(uris)


def broken_file(error: Exception) -> str | None:
    """What to say where Spark met a file that it cannot read, such as one cut off or removed
    meanwhile: names the file. None for any other error."""
    named = re.search(
        r"\[FAILED_READ_FILE([.\w]*)\] Encountered error while reading file (\S.*?)\.\s", str(error)
    )
    if named is None:
        return None
    if named[1] == ".FILE_NOT_EXIST":
        return (
            f"the file '{unquote(named[2])}' was removed while it was wanted; leave files "
            "where they are until all is done"
        )
    return _broken(named[2], error)


def _broken(uri: str, error: Exception) -> str:
    return (
        f"the file '{unquote(uri)}' is broken or cut off: {cause(error)}; copy it anew, "
        'or go without it by options.ignoreCorruptFiles = "true", which drops what follows the '
        "break"
    )


def _heads(spark: SparkSession, files: Files, uris: list[str]) -> list[str | None]:
    """The head of each file; None: it is empty, or broken and to be ignored."""
    no_header = files.option("header", "true").lower() != "true"
    if files.format == "json" or (files.format == "csv" and no_header):
        return [""] * len(uris)
    comment = files.option("comment", "")
    ignores_broken = files.option("ignoreCorruptFiles", "").lower() == "true"

    def look(uri: str) -> str | None:
        try:
            if files.format == "parquet":
                return _schema(spark, uri)
            return _header(spark, uri, comment)
        except Py4JError as error:
            if not ignores_broken:
                raise PipelineError(_broken(uri, error)) from None
            print(f"left out: {_broken(uri, error)}", flush=True)
            return None

    with ThreadPoolExecutor(_OPENERS) as threads:
        return list(threads.map(look, uris))


def _header(spark: SparkSession, uri: str, comment: str) -> str | None:
    """The bytes of a CSV file's first line that is neither blank nor a comment, as Latin-1; None
    where it has no such line."""
    jvm, path, hadoop = _java(spark, uri)
    codec = jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(hadoop).getCodec(path)
    stream = path.getFileSystem(hadoop).open(path)
    try:
        plain = stream if codec is None else codec.createInputStream(stream)
        lines = jvm.java.io.BufferedReader(jvm.java.io.InputStreamReader(plain, "ISO-8859-1"))
        read: Callable[[], str | None] = lines.readLine
        while (line := read()) is not None:
            text = line.removeprefix(_BOM).strip()
            is_comment = bool(comment) and text.startswith(comment)
            if text and not is_comment:
                return text
        return None
    finally:
        stream.close()


def _schema(spark: SparkSession, uri: str) -> str:
    """The columns of a Parquet file with their types, from its footer."""
    jvm, path, hadoop = _java(spark, uri)
    parquet = jvm.org.apache.parquet.hadoop
    file = parquet.util.HadoopInputFile.fromPath(path, hadoop)
    reader = parquet.ParquetFileReader.open(file)
    try:
        schema = reader.getFooter().getFileMetaData().getSchema()
        return ", ".join(str(column) for column in schema.getFields())
    finally:
        reader.close()


def _java(spark: SparkSession, uri: str) -> tuple[Any, Any, Any]:
    """Spark's Java, the file's path there, and the settings of its file systems."""
    jvm: Any = spark._jvm
    path = jvm.org.apache.hadoop.fs.Path(jvm.java.net.URI(uri))
    return jvm, path, spark._jsc.hadoopConfiguration()
