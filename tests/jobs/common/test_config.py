"""Configuration files and command lines."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.common.config import DEFAULT, ConfigError, Project, load, parse
from pipeline.config import Section, Split

SHIPPED = sorted(DEFAULT.parent.glob("*.toml"))


class NoOptions(Section):
    """A job without options."""


def written(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_file_is_a_project_of_its_name(path: Path) -> None:
    assert load([path]).name == path.stem


@pytest.mark.parametrize(
    "path", sorted(DEFAULT.parent.glob("presets/*.toml")), ids=lambda path: path.stem
)
def test_presets_lie_over_any_project(path: Path) -> None:
    assert load([DEFAULT, path]) != load([DEFAULT])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[clean]\nminimum_stay = 3",
            r"unknown key clean\.minimum_stay; did you mean 'minimum_stay_seconds'\?",
        ),
        ("[views.item]\ntopp = 3", r"unknown key views\.item\.topp; did you mean 'top'\?"),
        (
            "[views.walks]\nattribut = 'shop'",
            (
                r"unknown key views\.walks\.attribut; did you mean 'attribute'\?; valid here: "
                r"attribute, "
            ),
        ),
        (
            "[[source.items]]\npath = 'x'\nformat = 'csv'\nitem_id = 'i'\ntitel = 't'",
            r"source\.items\.0\.titel; did you mean 'title'\?",
        ),
        (
            "[clean]\nidle_gap_seconds = 3",
            r"unknown key clean\.idle_gap_seconds; it belongs in \[sessions\]; valid here: ",
        ),
        (
            "[source]\nitem_id = 'i'",
            (
                r"source\.item_id; it belongs in \[source\.columns\] or in \[source\.items\]; "
                r"valid "
                r"here: "
            ),
        ),
        (
            "[clean]\nseed = 3",
            r"unknown key clean\.seed; it belongs at the top of the file, before all sections",
        ),
        ("top = 3", r"unknown key top; it belongs in \[views\.NAME\]"),
        (
            "[clean]\nstay = 'derive'",
            r"clean\.stay: .*'absent' \(found 'derive'\); did you mean 'derived'\?",
        ),
        ("[shards]\nencodings = ['window']", r"shards\.encodings\.0: .*; did you mean 'windows'\?"),
        (
            "[views.item.walks]\nlength = 9",
            (
                r"views\.item: `walks` has no effect with sequences = \"sessions\"; set "
                r"`sequences` "
                r"to \"walks\""
            ),
        ),
        (
            "[views.item]\ndirected = true",
            r"views\.item: `directed` has no effect with sequences = \"sessions\"",
        ),
        (
            "[clean]\nminimum_stay_seconds = 3",
            r"clean: `minimum_stay_seconds` has no effect with stay = \"absent\"",
        ),
        (
            "[split]\nminimum_items = 9",
            (
                r"split: `minimum_items` has no effect with kind = \"time\"; it belongs to kind = "
                r"\"last_items\""
            ),
        ),
        ("[trian]\nepochs = 3", r"unknown key trian; did you mean 'train'\?"),
        ("[train]\ndimension = 0", r"train\.dimension: .*greater than or equal to 1 \(found 0\)"),
        ("[train]\nlearning_rate = 0", r"train\.learning_rate: .*greater than 0 \(found 0\)"),
        ("[train]\nlearning_rate = inf", r"train\.learning_rate: .*finite number \(found inf\)"),
        ("[train]\noptimiser = 'sgd'", r"train\.optimiser: .*'adagrad' or 'adam' \(found 'sgd'\)"),
        (
            "[train]\nweights = {item = -1.0}",
            r"train\.weights\.item: .*greater than or equal to 0 \(found -1\.0\)",
        ),
        ("[views.category]\ndimension = 32", r"unknown key views\.category\.dimension"),
        (
            "[views.category]\nattribute = 'categry'",
            r"views\.category\.attribute is 'categry'.*did you mean 'category'\?",
        ),
        (
            "[relations.item_shop]\nview = 'shops'",
            r"relations\.item_shop\.view is 'shops'.*did you mean 'shop'\?",
        ),
        ("[views.item]\nattribute = 'shop'", r"\[views\.item\] is the instance view"),
        ("[split]\nkind = 'last_items'", r"`cut` belongs to kind = \"time\""),
        ("[source]\nevent_types = ['view']", r"`event_types` needs `columns\.event_type`"),
        ("[source.attributes]\ndate = 'week'", r"\['date'\] must be called otherwise"),
        ("[source.attributes]\nposition = 'rank'", r"\['position'\] must be called otherwise"),
        ("[source.attributes]\n'leaf-category' = 'c'", r"source\.attributes\.leaf-category"),
        ("[views.'../x']\nattribute = 'shop'", r"views\.\.\./x"),
        ("[clean]\nstay = 'given'", r"source\.columns\.stay_seconds need each other"),
        (
            "[source.columns]\nstay_seconds = 'dwell'",
            r"source\.columns\.stay_seconds need each other",
        ),
        ("[clean]\nminimum_value = 3.0", r"clean\.minimum_value needs source\.columns\.value"),
        (
            "[source.time]\nzone = 'Asia/Shanghi'",
            r"no time zone 'Asia/Shanghi'; did you mean 'Asia/Shanghai'\?",
        ),
        ("[shards]\nencodings = []", r"shards\.encodings"),
        (
            "[sessions]\nmerge_gap_seconds = 0",
            r"sessions\.merge_gap_seconds: .*greater than or equal to 0\.000001 \(found 0\)",
        ),
        (
            "[sessions]\nmerge_gap_seconds = 1e-7",
            r"sessions\.merge_gap_seconds: .* \(found 1e-07\)",
        ),
        (
            "[split]\nkind = 'last_items'\nitems = 9",
            r"would leave users no training part|belongs to kind",
        ),
        (
            "[source]\nformat = 'csv'\noptions.multiLien = 'true'",
            r"source: `options`: .* knows no 'multiLien'; did you mean 'multiLine'\?",
        ),
        (
            "[views.item]\nnull_values = ['', '0']",
            r"views\.item: `null_values` has no effect without `attribute`; `source\.null_ids`",
        ),
        (
            "[views.item]\nseveral = 'first'",
            r"views\.item: `several` has no effect without `attribute`",
        ),
        ("name = '..'", r"name: "),
        ("name = ", "is not TOML"),
    ],
)
def test_a_wrong_configuration_names_file_key_and_the_nearest_valid_one(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"own\.toml.*{message}"):
        load([DEFAULT, written(tmp_path, text)])


def test_app_sessions_that_the_log_does_not_have_are_not_merged(tmp_path: Path) -> None:
    columns = "user_id = 'u'\nitem_id = 'i'\ntimestamp = 't'\n"
    text = f"name = 'shop'\n[source]\npath = 'log'\nformat = 'csv'\n[source.columns]\n{columns}"
    rules = "[sessions]\nmerge_gap_seconds = 60\n[views.item]\n"
    load([written(tmp_path, f"{text}app_open = 'o'\n{rules}")])
    with pytest.raises(
        ConfigError,
        match=r"sessions\.merge_gap_seconds has no effect where the log tells of no app session",
    ):
        load([written(tmp_path, text + rules)])


def test_hours_belong_to_a_cut() -> None:
    with pytest.raises(ValidationError, match='`hours` has no effect with kind = "none"'):
        Split(hours=2)


def test_all_settings_written_out_are_the_same_settings() -> None:
    """As manifests write them, those without effect too."""
    for path in SHIPPED:
        project = load([path])
        assert Project.model_validate(project.model_dump(mode="json")) == project


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read: No such file"):
        load([tmp_path / "absent.toml"])


def test_later_files_and_then_options_win(tmp_path: Path) -> None:
    own = written(tmp_path, "[train]\nepochs = 3\ndimension = 16")
    project, _ = parse(
        "job", NoOptions(), [str(DEFAULT), str(own), "--train.epochs", "4", "--views.item.top", "9"]
    )
    assert (project.train.epochs, project.train.dimension, project.views["item"].top) == (4, 16, 9)
    assert project.views["category"].attribute == "category"


def test_a_wrong_option_ends_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("job", NoOptions(), ["--train.epoch", "4"])
    assert ended.value.code == 2
    assert "--train.epochs" in capsys.readouterr().err


def test_a_wrong_value_of_an_option_is_told_with_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("job", NoOptions(), ["--train.learning-rate", "0"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "learning_rate" in told
    assert "should be greater than 0" in told
    assert "pydantic.dev" not in told


def test_help_explains_options_with_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("job", NoOptions(), ["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--train.learning-rate" in text
    assert "Length d of every vector. (default: 64)" in " ".join(text.replace("│", " ").split())
