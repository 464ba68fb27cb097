"""The shards and held-out cases of an older manifest, written again to the byte."""

from pipeline.config import PipelineConfig
from pipeline.contracts.layout import Output
from pipeline.contracts.shards import Manifest
from pipeline.errors import PipelineError
from pipeline.lake import older_versions
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.preprocess import HELD_OUT, SHARDS, STEPS
from pipeline.runs.step import Values, advance


def rebuild(pipeline: Pipeline, manifest: Manifest, output: Output) -> Manifest:
    """Writes the shards and held-out cases of an older manifest again, elsewhere. They come from
    the versions of the tables that it names, or from newer ones of the same rows, which the new
    manifest then names.

    Raises PipelineError where the manifest is another project's, or its shards are now others, and
    GoneError where the versions were vacuumed; no manifest is written then.
    """
    if manifest.name != pipeline.settings.name:
        raise PipelineError(
            f"the manifest is of project '{manifest.name}', the configuration of "
            f"'{pipeline.settings.name}'; name those of one project"
        )
    then = as_it_was(pipeline, manifest, output)
    with older_versions():
        again = _write_again(then)
    older, now = checksums(manifest), checksums(again)
    names = sorted({*older, *now})
    different = [name for name in names if older.get(name) != now.get(name)]
    if different:
        raise PipelineError(
            f"{output.shards} is not to the byte what the manifest lists: "
            f"{', '.join(different)} differ. That was written by version "
            f"{manifest.code_version} of the code, this is {pipeline.identity.code_version}; "
            "rebuild with that one, on the lake it had"
        )
    again.write(output.shards)
    return again


def as_it_was(pipeline: Pipeline, manifest: Manifest, output: Output) -> Pipeline:
    """The pipeline that wrote a manifest: its settings, and the lake with the versions of then."""
    lake = pipeline.lake
    settings = PipelineConfig.model_validate(manifest.config)
    identity = Identity(manifest.config, manifest.config_hash, manifest.code_version)
    versions = {table: lake.like(table, version) for table, version in manifest.inputs.items()}
    return Pipeline(pipeline.spark, settings, output, identity, versions)


def _write_again(pipeline: Pipeline) -> Manifest:
    """Starts at the shards and stops after the held-out cases; what comes before is read where the
    lake keeps it. Returns the manifest, not yet written."""
    start, stop = STEPS.index(SHARDS), STEPS.index(HELD_OUT) + 1
    values: Values = {Pipeline: pipeline}
    for step in STEPS[:start]:
        values = advance(step.read or step.make, values)
    for step in STEPS[start:stop]:
        values = advance(step.make, values)
    pipeline.lake.sweep()
    manifest: Manifest = values[Manifest]
    return manifest


def checksums(manifest: Manifest) -> dict[str, list[str]]:
    """Vocabularies and streams -> SHA-256 of their files, whose names differ each time."""
    sums = {}
    for name, view in manifest.views.items():
        sums[f"vocabulary/{name}"] = [view.vocabulary.sha256]
    for task, streams in manifest.streams.items():
        for stream in streams:
            sums[f"{task}/{stream.encoding}"] = [file.sha256 for file in stream.files]
    return sums
