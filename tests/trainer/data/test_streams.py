"""Reading streams: the rows that were written, file errors by name, and one block in memory."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.contracts.sealed import MANIFEST, ManifestError
from pipeline.contracts.shards import Manifest, Stream
from tests.trainer.shards import WINDOW, Corpus, expand, random_corpus, write_shards
from trainer.data import order
from trainer.data.streams import Lane, StreamFiles, StreamRows, concatenate
from trainer.objective.exact import expand as expand_rows
from trainer.objective.tasks import read_counts

CORPUS = random_corpus()
FILES = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path, CORPUS, files=FILES)
    return tmp_path


def stream(folder: Path, view: str, encoding: str) -> Stream:
    return next(s for s in Manifest.read(folder).views[view].streams if s.encoding == encoding)


def lists(rows: StreamRows) -> list[list[int]]:
    return (
        [part.tolist() for part in np.split(rows.values, rows.offsets[1:-1])] if len(rows) else []
    )


def test_any_range_of_windows_equals_the_rows_written(folder: Path) -> None:
    written = [sequence for i in range(FILES) for sequence in CORPUS.views["item"][i::FILES]]
    files = StreamFiles(folder, stream(folder, "item", "windows"))
    for first in range(0, len(written), 7):
        for stop in (first + 1, first + 6, first + 8, first + 39, len(written)):
            rows = files.read(first, min(stop, len(written)))
            assert lists(rows) == written[first:stop]
            assert rows.centres is None


def test_any_range_of_pairs_equals_the_rows_written(folder: Path) -> None:
    written = [
        (item, values)
        for i in range(FILES)
        for item, values in list(enumerate(CORPUS.links["item_shop"]))[i::FILES]
    ]
    files = StreamFiles(folder, Manifest.read(folder).relations["item_shop"].streams[0])
    for first in range(len(written)):
        for stop in range(first + 1, len(written) + 1, 5):
            rows = files.read(first, stop)
            assert rows.centres is not None
            assert list(zip(rows.centres.tolist(), lists(rows), strict=True)) == written[first:stop]


def test_a_part_is_the_same_rows_taken_one_by_one(folder: Path) -> None:
    whole = StreamFiles(folder, Manifest.read(folder).relations["item_shop"].streams[0]).read(2, 30)
    for first, stop in ((0, 28), (3, 11), (27, 28), (5, 5)):
        part, taken = whole.part(first, stop), whole.take(np.arange(first, stop))
        assert part.centres is not None
        assert taken.centres is not None
        for got, wanted in (
            (part.centres, taken.centres),
            (part.values, taken.values),
            (part.offsets, taken.offsets),
        ):
            assert got.tolist() == wanted.tolist()
            assert not np.shares_memory(got, whole.values)


def test_both_encodings_hold_the_same_multiset_of_pairs(folder: Path) -> None:
    found = []
    for encoding in ("windows", "pairs"):
        listed = stream(folder, "item", encoding)
        centres, contexts, _ = expand_rows(StreamFiles(folder, listed).read(0, listed.rows), WINDOW)
        found.append(Counter(zip(centres.tolist(), contexts.tolist(), strict=True)))
    written = Counter(
        (centre, context)
        for sequence in CORPUS.views["item"]
        for _, centre, context in expand(sequence, WINDOW)
    )
    assert found[0] == found[1] == written


def test_taking_and_joining_rows() -> None:
    rows = StreamRows(np.array([7, 8, 9]), np.array([1, 2, 3, 4]), np.array([0, 1, 1, 4]))
    taken = rows.take(np.array([2, 0, 1, 2]))
    assert lists(taken) == [[2, 3, 4], [1], [], [2, 3, 4]]
    assert taken.centres is not None
    assert taken.centres.tolist() == [9, 7, 8, 9]
    joined = concatenate([rows, taken])
    assert lists(joined) == lists(rows) + lists(taken)
    assert len(joined) == 7


def test_a_changed_file_is_named(folder: Path) -> None:
    listed = stream(folder, "item", "windows")
    path = folder / listed.files[1].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    files = StreamFiles(folder, listed)
    files.read(0, listed.files[0].rows)
    with pytest.raises(ManifestError, match=rf"{listed.files[1].path}.*SHA-256"):
        files.read(listed.files[0].rows, listed.rows)


def test_a_missing_file_is_named(folder: Path) -> None:
    listed = stream(folder, "category", "pairs")
    (folder / listed.files[0].path).unlink()
    with pytest.raises(ManifestError, match=rf"{listed.files[0].path} is listed .* not there"):
        StreamFiles(folder, listed).read(0, 1)


def test_a_truncated_file_is_named(folder: Path) -> None:
    listed = stream(folder, "item", "windows")
    path = folder / listed.files[0].path
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ManifestError, match=rf"{listed.files[0].path} has \d+ bytes"):
        StreamFiles(folder, listed).read(0, 1)


def test_a_manifest_that_miscounts_rows_is_refused(folder: Path) -> None:
    listed = stream(folder, "item", "windows")
    wrong = listed.model_copy(
        update={"files": (listed.files[0].model_copy(update={"rows": 3}), listed.files[1])}
    )
    with pytest.raises(ManifestError, match="the manifest says 3"):
        StreamFiles(folder, wrong).read(0, 1)


def test_a_changed_vocabulary_is_named(folder: Path) -> None:
    (folder / "vocabulary" / "item.parquet").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"vocabulary/item\.parquet has 0 bytes"):
        read_counts(folder, Manifest.read(folder), "item")


def test_another_version_of_the_manifest_is_refused(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(
        path.read_text(encoding="utf-8").replace(
            '"version": 1,\n  "name"', '"version": 99,\n  "name"'
        ),
        encoding="utf-8",
    )
    with pytest.raises(
        ManifestError, match=r"manifest\.json is of format and version \('m2grl-shards', 99\)"
    ):
        Manifest.read(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "m2grl-shards", "version": 1}'])
def test_what_is_no_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"manifest\.json is (not a manifest|of format)"):
        Manifest.read(folder)


def lane(folder: Path, number: int, lanes: int, rate: order.Rate, shuffle_rows: int = 5) -> Lane:
    return Lane(
        StreamFiles(folder, stream(folder, "item", "windows")),
        "item",
        number,
        lanes,
        rate,
        shuffle_rows,
        seed=1,
    )


def served(part: StreamRows | None) -> list[tuple[int, ...]]:
    return [] if part is None else [tuple(values) for values in lists(part)]


def test_each_epoch_visits_every_row_once_in_an_order_of_its_own(folder: Path) -> None:
    steps, written = 9, Counter(tuple(sequence) for sequence in CORPUS.views["item"])
    epochs = []
    for epoch in range(2):
        lanes = [lane(folder, number, 3, order.once_an_epoch(steps)) for number in range(3)]
        rows = [
            row
            for step in range(epoch * steps, (epoch + 1) * steps)
            for each in lanes
            for row in served(each.read(step))
        ]
        assert Counter(rows) == written
        epochs.append(rows)
    assert epochs[0] != epochs[1]


def test_a_lane_resumes_at_any_step(folder: Path) -> None:
    rate, steps = order.once_an_epoch(9), range(30)
    through = lane(folder, 1, 3, rate)
    rows = [served(through.read(step)) for step in steps]
    assert [served(lane(folder, 1, 3, rate).read(step)) for step in steps] == rows
    assert [served(through.read(step)) for step in reversed(steps)] == rows[::-1]


def test_a_lane_holds_one_block(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it reads the next one, and however many rows a step serves."""
    shuffle_rows, reads = 5, []
    read_rows = StreamFiles.read
    each = lane(folder, 0, 2, order.pairs_a_step(3, 2), shuffle_rows)

    def read(self: StreamFiles, first: int, stop: int) -> StreamRows:
        assert each._held is None
        reads.append(stop - first)
        return read_rows(self, first, stop)

    monkeypatch.setattr(StreamFiles, "read", read)
    for step in range(4):
        assert each.read(step) is not None
        assert each._held is not None
        assert len(each._held[2]) <= shuffle_rows
    assert max(reads) == shuffle_rows
    assert sum(reads) >= 4 * len(CORPUS.views["item"]) // 2


def test_more_lanes_than_rows(folder: Path) -> None:
    rows = len(CORPUS.views["item"])
    lanes = [lane(folder, number, 2 * rows, order.once_an_epoch(1)) for number in range(2 * rows)]
    assert Counter(row for each in lanes for row in served(each.read(0))) == Counter(
        map(tuple, CORPUS.views["item"])
    )


def test_slices_of_arrow_lists_keep_their_own_values(tmp_path: Path) -> None:
    """A row group is cut in the middle of its rows: offsets then start beyond 0."""
    corpus = Corpus({"item": [[1, 2], [3, 4, 5], [0, 1], [2, 2, 2, 2]]}, {"item": 6})
    manifest: Manifest = write_shards(tmp_path, corpus, files=1, row_group=3)
    files = StreamFiles(tmp_path, manifest.views["item"].streams[0])
    assert lists(files.read(1, 4)) == [[3, 4, 5], [0, 1], [2, 2, 2, 2]]
    assert files.read(2, 3).offsets.tolist() == [0, 2]
