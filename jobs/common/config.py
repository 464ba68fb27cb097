"""A project of the user's: TOML files, overridden on the command line, read into one frozen
configuration."""

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import tyro
from pydantic import BaseModel, ValidationError, create_model, field_validator

from jobs.common.evaluate import Evaluate
from pipeline.config import PipelineConfig, Section, fingerprint, near
from pipeline.contracts.layout import Output
from pipeline.storage.locations import Location, location
from trainer.config import Train

# What is said of a wrong option names no pages of pydantic's, which looks here before its first
# message.
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")

DEFAULT = Path(__file__).parents[1] / "configs" / "completejourney.toml"
"""The project that is taken where none is named: the one of `make run`."""


class ConfigError(Exception):
    """A configuration that cannot be used; the message names the key and what to do."""


class Project(PipelineConfig):
    """Everything that a project can be told. A configuration file has these sections and no
    others."""

    output: str = "build"
    """Folder under which the project's own folder lies: a path, or a URI such as
    s3a://bucket/folder."""
    local_output: str = "build"
    """Where `output` is a URI of a store: folder for what training and the jobs after it write, one
    that every rank sees."""
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @field_validator("output")
    @classmethod
    def _output_is_a_place(cls, output: str) -> str:
        location(output)
        return output

    @property
    def pipeline_hash(self) -> str:
        """Stands for the settings that decide what the pipeline writes; not the seed, so that one
        set of shards serves trainings of several seeds."""
        return fingerprint(
            self.model_dump(mode="json", include=set(PipelineConfig.model_fields) - {"seed"})
        )

    @property
    def paths(self) -> "Paths":
        """Where the project's files lie."""
        root = location(self.output) / self.name
        return Paths(root, root if isinstance(root, Path) else Path(self.local_output) / self.name)


class Paths:
    """The files of a project, each written by one job and read by those after it."""

    def __init__(self, root: Location, learned: Path | None = None) -> None:
        """`root` is for what preprocessing writes; `learned`, for all the rest, is the same folder
        unless given."""
        if learned is None:
            assert isinstance(root, Path), root
            learned = root
        self.root = root
        self.output = Output.under(root)
        """All that preprocess writes; each of it by its own name too."""
        self.lake, self.shards = self.output.lake, self.output.shards
        self.heldout, self.statistics = self.output.heldout, self.output.statistics
        self.model = learned / "model"
        """Checkpoints and train.jsonl (train)."""
        self.embeddings = learned / "embeddings"
        """Vectors (export)."""
        self.evaluation = learned / "evaluation.json"
        """Figures of every model (evaluate)."""
        self.similar = learned / "similar"
        """Similarity maps (similar)."""
        self.report = learned / "report.html"
        """What was learned, for people (report)."""
        self.data_report = learned / "data.html"
        """What it is to be learned from, for people (report --data)."""


_OF_SEVERAL = (dict, tuple)
"""What holds several sections, each of a name or a number of its own."""
Options = TypeVar("Options", bound=Section)


def parse(
    job: str, options: Options, arguments: Sequence[str] | None = None
) -> tuple[Project, Options]:
    """Reads a job's command line: `[CONFIG.toml ...] [--key value ...]`, files first.

    Several files are laid over each other, the later ones win; options override them all. Exits
    with 2 and one message where the configuration cannot be used, with 0 after `--help`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    files = []
    while given and not given[0].startswith("-"):
        files.append(Path(given.pop(0)))
    try:
        project = load(files or [DEFAULT])
    except ConfigError as error:
        print(f"{job}: {error}", file=sys.stderr)
        sys.exit(2)

    shown = ", ".join(map(str, files)) or DEFAULT.name
    text = (
        f"{(type(options).__doc__ or '').strip()}\n\nSeveral files are laid over each other. "
        f"Defaults shown are those of {shown}."
    )
    arguments_type = create_model(
        "Arguments", project=(_unprefixed(Project), ...), options=(_unprefixed(type(options)), ...)
    )
    read: Any = tyro.cli(
        arguments_type,
        prog=f"{job} [CONFIG.toml ...]",
        description=text,
        args=given,
        default=arguments_type(project=project, options=options),
    )
    return read.project, read.options


def load(files: Sequence[Path]) -> Project:
    """The project that TOML files describe together. Raises ConfigError naming file and key."""
    merged: dict[str, Any] = {}
    for path in files:
        _lay_over(merged, _read(path))
    try:
        return Project.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(f"{', '.join(map(str, files))}: {line}" for line in _explain(error))
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; name a TOML file such as {DEFAULT.name} "
            "in jobs/configs"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def _lay_over(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


def _explain(error: ValidationError) -> Iterator[str]:
    """One line a mistake, each with its key."""
    for mistake in error.errors(include_url=False):
        where = [str(part) for part in mistake["loc"]]
        key = ".".join(where)
        if mistake["type"] == "extra_forbidden":
            yield _unknown(where)
        elif mistake["type"] == "missing":
            yield f"{key} is missing"
        elif mistake["type"] == "literal_error":
            valid = re.findall("'([^']*)'", mistake["ctx"]["expected"])
            yield (
                f"{key}: {mistake['msg']} (found "
                f"{mistake['input']!r}){near(str(mistake['input']), valid)}"
            )
        else:
            yield (
                (f"{key}: " if key else "")
                + f"{mistake['msg'].removeprefix('Value error, ')}"
                + (
                    f" (found {mistake['input']!r})"
                    if key and mistake["type"] != "value_error"
                    else ""
                )
            )


def _unknown(where: Sequence[str]) -> str:
    """What is said of a key that its section does not know: where it belongs, or else which valid
    one is nearest."""
    valid, homes = _keys_beside(Project, where), list(_sections_with(where[-1]))
    hint = f"; it belongs {' or '.join(homes)}" if homes else near(where[-1], valid)
    return f"unknown key {'.'.join(where)}{hint}; valid here: {', '.join(sorted(valid))}"


def _sections_with(key: str, model: type[BaseModel] = Project, name: str = "") -> Iterator[str]:
    """Where in a configuration file a key is known: in which sections, or at its top."""
    if key in model.model_fields:
        yield f"in [{name}]" if name else "at the top of the file, before all sections"
    for field, told in model.model_fields.items():
        section = _section_of(told.annotation)
        if section is not None:
            inside = [name, field, "NAME" if get_origin(told.annotation) is dict else ""]
            yield from _sections_with(key, section, ".".join(filter(None, inside)))


def _keys_beside(model: type[BaseModel], where: Sequence[str]) -> set[str]:
    """Keys that the section holding `where` knows."""
    parts = iter(where[:-1])
    for part in parts:
        annotation = model.model_fields[part].annotation
        model = _section_of(annotation) or model
        if get_origin(annotation) in _OF_SEVERAL:
            # A name that the user chose, or a number.
            next(parts, None)
    return set(model.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation such as `dict[str, View]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_of(inner))), None)


def _unprefixed(section: type[BaseModel]) -> Any:
    """The section's options without a common prefix."""
    return Annotated[section, tyro.conf.arg(name="")]
