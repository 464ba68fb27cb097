"""A project of the user's: TOML files, overridden on the command line, read into one frozen configuration."""

import difflib
import hashlib
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import tyro
from pydantic import BaseModel, Field, ValidationError, create_model, model_validator

from jobs.evaluation.config import Evaluate
from pipeline.config import ITEM_VIEW, Clean, Relation, Section, Seed, Sessions, Shards, Source, Split, View
from trainer.config import Train

DEFAULT = Path(__file__).parent / "configs" / "completejourney.toml"
"""The project that is taken where none is named: the one of `make run`."""


class ConfigError(Exception):
    """A configuration that cannot be used; the message names the key and what to do."""


class Project(Section):
    """Everything that a project can be told. A configuration file has these sections and no others."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of the project, also of its folder."""
    seed: Seed = 1
    """Seed of every random draw."""
    output: str = "build"
    """Folder under which the project's own folder lies."""
    source: Source
    clean: Clean = Clean()
    sessions: Sessions = Sessions()
    views: dict[str, View]
    relations: dict[str, Relation] = Field(default_factory=dict)
    shards: Shards = Shards()
    split: Split = Split()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _names_meet(self) -> "Project":
        """Views, relations and attributes refer to each other by name."""
        if ITEM_VIEW not in self.views or self.views[ITEM_VIEW].attribute is not None:
            raise ValueError(f"[views.{ITEM_VIEW}] is the instance view: it is needed, and has no attribute")
        attributes = {*self.source.attributes, *(name for table in self.source.items for name in table.attributes)}
        for name, view in self.views.items():
            if name != ITEM_VIEW and view.attribute not in attributes:
                raise ValueError(
                    f"views.{name}.attribute is '{view.attribute}'; the source has {sorted(attributes)}{_near(view.attribute or '', attributes)}"
                )
        for name, relation in self.relations.items():
            if relation.view not in self.views or relation.view == ITEM_VIEW:
                others = set(self.views) - {ITEM_VIEW}
                raise ValueError(
                    f"relations.{name}.view is '{relation.view}'; the value views are {sorted(others)}{_near(relation.view, others)}"
                )
            if name in self.views:
                raise ValueError(f"'{name}' names a view and a relation: tasks need names of their own")
        return self

    @property
    def paths(self) -> "Paths":
        """Where the project's files lie."""
        return Paths(Path(self.output) / self.name)


class Paths:
    """The files of a project, each written by one job and read by those after it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lake = root / "lake"
        """Delta tables (preprocess)."""
        self.shards = root / "shards"
        """Training shards and their manifest (preprocess)."""
        self.heldout = root / "heldout"
        """The test part of the log (preprocess)."""
        self.statistics = root / "statistics.json"
        """Funnel and Table 1 (preprocess)."""
        self.model = root / "model"
        """Checkpoints and train.jsonl (train)."""
        self.embeddings = root / "embeddings"
        """Vectors (export)."""
        self.evaluation = root / "evaluation.json"
        """Figures of every model (evaluate)."""
        self.similar = root / "similar"
        """Similarity maps (similar)."""
        self.report = root / "report.html"
        """What was learned, for people (report)."""


Options = TypeVar("Options", bound=Section)


def parse(job: str, options: Options, arguments: Sequence[str] | None = None) -> tuple[Project, Options]:
    """Reads a job's command line: `[CONFIG.toml ...] [--key value ...]`.

    Several files are laid over each other, the later ones win; options override them all. Exits with 2 and one message where the
    configuration cannot be used, with 0 after `--help`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    files = []
    while given and not given[0].startswith("-"):
        files.append(Path(given.pop(0)))
    try:
        project = load(files or [DEFAULT])
    except ConfigError as error:
        sys.exit(f"{job}: {error}")

    shown = ", ".join(map(str, files)) or DEFAULT.name
    text = f"{(type(options).__doc__ or '').strip()}\n\nSeveral files are laid over each other. Defaults shown are those of {shown}."
    arguments_type = create_model("Arguments", project=(_unprefixed(Project), ...), options=(_unprefixed(type(options)), ...))
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
        raise ConfigError("\n".join(f"{', '.join(map(str, files))}: {line}" for line in _explain(error))) from None


def config_hash(*sections: BaseModel | dict[str, BaseModel]) -> str:
    """Stands for the values of some sections; hex SHA-256."""
    text = repr(
        [part.model_dump_json() if isinstance(part, BaseModel) else {k: v.model_dump_json() for k, v in part.items()} for part in sections]
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; name a TOML file such as {DEFAULT.name} in jobs/configs") from None
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
            valid = _keys_beside(Project, where)
            yield f"unknown key {key}{_near(where[-1], valid)}; valid here: {', '.join(sorted(valid))}"
        elif mistake["type"] == "missing":
            yield f"{key} is missing"
        else:
            yield f"{key}: {mistake['msg'].removeprefix('Value error, ')}" + (
                f" (found {mistake['input']!r})" if key and mistake["type"] != "value_error" else ""
            )


def _keys_beside(model: type[BaseModel], where: Sequence[str]) -> set[str]:
    """Keys that the section holding `where` knows."""
    for part in where[:-1]:
        if part in model.model_fields:
            found = _section_of(model.model_fields[part].annotation)
            model = found or model
    return set(model.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation such as `dict[str, View]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_of(inner))), None)


def _near(word: str, valid: set[str]) -> str:
    found = difflib.get_close_matches(word, sorted(valid), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


def _unprefixed(section: type[BaseModel]) -> Any:
    """The section's options without a common prefix."""
    return Annotated[section, tyro.conf.arg(name="")]
