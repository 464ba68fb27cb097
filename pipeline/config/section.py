"""What every section of a configuration is: frozen, typed, and helpful about a wrong word."""

import difflib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
"""Names of views, relations and attributes become names of columns and folders: letters, digits and
underscores."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A frozen part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def _is_set(self, name: str) -> bool:
        """Whether a setting is another than its default. That it was written is no matter:
        manifests write all of them."""
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return bool(getattr(self, name) != default)


def in_utc(time: datetime) -> datetime:
    """A time without a zone is UTC: Spark would read it in this machine's zone."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def differ_in_more_than_case(what: str, names: Iterable[str]) -> None:
    """Raises ValueError where two names are one to Spark, which does not tell upper case from lower
    case in names of columns."""
    spellings: dict[str, str] = {}
    for name in names:
        other = spellings.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(
                f"{what}: '{other}' and '{name}' differ in case only; columns of both names "
                "cannot stand in one table"
            )


def near(word: str, valid: Iterable[str]) -> str:
    """Asks for the valid word that is nearest to a wrong one, where one is near."""
    nearest = difflib.get_close_matches(word, sorted(valid), n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""
