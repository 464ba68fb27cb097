"""What all sealed folders share: who reads one knows whether it is whole."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.contracts.sealed import MANIFEST, ListedFile, ManifestError, Seal


class Crate(Seal):
    """A kind of sealed folder."""

    job: ClassVar[str] = "jobs/pack.py"
    absent: ClassVar[str] = "nothing was packed"

    format: str = "crate"
    version: int = 2
    files: dict[str, ListedFile]

    @property
    def listed(self) -> dict[str, ListedFile]:
        return self.files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    Crate(files={name: ListedFile.of(tmp_path / name) for name in ("first", "second")}).write(
        tmp_path
    )
    return tmp_path


def test_what_was_written_is_read(folder: Path) -> None:
    crate = Crate.read(folder)
    crate.check(folder)
    assert list(crate.listed) == ["first", "second"]
    assert crate.listed["first"].bytes == 5
    assert crate.text == (folder / MANIFEST).read_text()
    assert crate == Crate.read_file(folder / MANIFEST)


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        (None, "is not there: nothing was packed", "run jobs/pack.py"),
        ("{", "is not a manifest: ", "run jobs/pack.py again"),
        ("[]", "is not a manifest: ", "run jobs/pack.py again"),
        (
            '{"format": "crate", "version": 1, "files": {}}',
            "is of format and version ('crate', 1), this code reads ('crate', 2)",
            "run jobs/pack.py again",
        ),
        (
            '{"format": "crate", "version": 2, "files": {"first": {"bytes": "many"}}}',
            "files.first.bytes",
            "run jobs/pack.py again",
        ),
    ],
)
def test_what_is_no_manifest_is_refused_with_what_to_run(
    folder: Path, text: str | None, what: str, remedy: str
) -> None:
    if text is None:
        (folder / MANIFEST).unlink()
    else:
        (folder / MANIFEST).write_text(text)
    with pytest.raises(ManifestError) as refused:
        Crate.read(folder)
    assert what in refused.value.what
    assert str(folder / MANIFEST) in refused.value.what
    assert refused.value.remedy == remedy
    assert str(refused.value) == f"{refused.value.what}; {remedy}"


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (Path.unlink, "is listed in manifest.json but not there"),
        (lambda path: path.write_text("2nd"), "has 3 bytes, manifest.json says 6"),
        (lambda path: path.write_text("SECOND"), "is not the file that manifest.json lists"),
    ],
)
def test_a_file_that_is_not_the_listed_one_is_named(
    folder: Path, damage: Callable[[Path], object], what: str
) -> None:
    damage(folder / "second")
    with pytest.raises(ManifestError) as refused:
        Crate.read(folder).check(folder)
    assert refused.value.what.startswith(f"{folder / 'second'} {what}")
    assert refused.value.remedy == "run jobs/pack.py again"
