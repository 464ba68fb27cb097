"""The face for notebooks and scripts, and the first notebook, on the toy."""

import json
from pathlib import Path

import numpy as np
import pytest

from jobs import evaluate, similar
from jobs.common.config import ConfigError
from jobs.interactive import open_project
from jobs.reporting.records import ReportError
from jobs.similarity.catalogue import EvaluationError
from tests.jobs import evaluation_toy as toy

ROOT = Path(__file__).parents[3]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with its maps by two scores, and its figures."""
    file = toy.write_project(tmp_path_factory.mktemp("toy"))
    for score in ("cosine", "conditional"):
        similar.main([str(file), "--evaluate.score", score])
    evaluate.main([str(file)])
    return file


def test_vectors_come_with_ids_titles_and_counts(config: Path) -> None:
    item = open_project(config).vectors("item")
    assert item.ids == toy.IDS
    assert item.titles == ["Title a", "Title b", "Title c", "Title d", "Title e", "f"]
    assert item.counts.tolist() == toy.COUNTS
    assert item.vectors.dtype == np.float32
    assert item.vectors.tolist() == toy.INPUTS
    assert open_project(str(config)).vectors("item.context").vectors.tolist() == toy.OUTPUTS


def test_vectors_that_were_not_exported_are_named(config: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no vectors 'items'; it holds item, item\.context"):
        open_project(config).vectors("items")


@pytest.mark.parametrize("item", ["a", "Title a", "title A"])
def test_neighbours_by_id_and_by_title(config: Path, item: str) -> None:
    # angles by hand: a 0, b 37, c 90, d 45, e 180 degrees
    near = open_project(config).neighbours(item, score="cosine", k=3)
    assert near.columns.tolist() == ["item_id", "title", "score"]
    assert near["item_id"].tolist() == ["b", "d", "c"]
    assert near["title"].tolist() == ["Title b", "Title d", "Title c"]
    assert near["score"].tolist() == pytest.approx([0.8, 0.5**0.5, 0.0])


def test_the_score_is_the_projects_own_unless_given(config: Path) -> None:
    own = open_project(config).neighbours("c")
    assert own["score"].sum() == pytest.approx(1)  # a softmax
    other = open_project(config, evaluate={"score": "cosine"}).neighbours("c")
    assert other["item_id"].tolist()[:2] == ["d", "b"]


def test_an_item_without_a_list_has_no_neighbours(config: Path) -> None:
    near = open_project(config).neighbours("f", score="cosine")
    assert near.columns.tolist() == ["item_id", "title", "score"]
    assert near.empty


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("zebra", "'zebra' is neither an id nor a part of a title"),
        ("title", "'title' is a part of 5 titles, such as Title a; Title b; .* an id"),
    ],
)
def test_an_item_that_is_not_there_or_not_one(config: Path, item: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        open_project(config).neighbours(item)


def test_a_map_that_is_not_there(config: Path) -> None:
    with pytest.raises(EvaluationError, match=r"inner\.parquet is not there; run jobs/similar\.py"):
        open_project(config).neighbours("a", score="inner")


def test_a_map_of_other_vectors(tmp_path: Path) -> None:
    file = toy.write_project(tmp_path)
    similar.main([str(file)])
    manifest = tmp_path / "build/toy/embeddings/manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(EvaluationError, match="is not a map of the vectors"):
        open_project(file).neighbours("a")


def test_figures_of_every_model(config: Path) -> None:
    figures = open_project(config).figures()
    assert figures.loc["popularity", "hit_rate"] == 1
    assert figures.loc["Item-CF", "next_all"] == pytest.approx(2 / 5)
    assert figures.loc["popularity", "ceiling"] == pytest.approx(4 / 5)


def test_figures_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"run jobs/evaluate\.py"):
        open_project(toy.write_project(tmp_path)).figures()


def test_settings_are_laid_over_files(config: Path, tmp_path: Path) -> None:
    over = tmp_path / "over.toml"
    over.write_text("[evaluate]\nk = 3\nbootstrap = 7\n")
    project = open_project(config, over, evaluate={"k": 4}, output=str(tmp_path)).project
    assert (project.evaluate.k, project.evaluate.bootstrap) == (4, 7)
    assert project.paths.root == tmp_path / "toy"


def test_a_setting_that_is_none(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key evaluate\.kk"):
        open_project(config, evaluate={"kk": 4})


# Notebooks


@pytest.mark.parametrize("folder", [ROOT, ROOT / "notebooks"], ids=["root", "notebooks"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_folder_and_from_the_root(
    path: Path, folder: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells in order, as a kernel would run them."""
    monkeypatch.setenv("M2GRL_PROJECT", str(config))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(folder)  # and back afterwards, wherever the notebook goes
    names: dict[str, object] = {"display": print}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code
    for number, source in enumerate(code):
        exec(compile(source, f"{path.name}, code cell {number}", "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_paths_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    kept = [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
    assert kept == []
    assert "/home/" not in text
    assert str(ROOT) not in text


def test_there_is_a_notebook() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["neighbours"]
