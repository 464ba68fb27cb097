"""What is asked of a model: the users and the next items of the held-out part, as arrays of
catalogue rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from jobs.common.arrays import AnyIntArray, BoolArray, Int32Array, Int64Array
from jobs.similarity.catalogue import Catalogue, EvaluationError
from pipeline.contracts import heldout
from pipeline.storage.locations import Location, read_table


@dataclass(frozen=True)
class UserCases:
    """Users with at least one new item after the cut."""

    recent: csr_array[Any]
    """[users, size] 1 at each of a user's last distinct items before the cut: the triggers."""
    history: csr_array[Any]
    """[users, size] -inf at each item the user had before the cut: added to scores, it excludes
    them."""
    truth: Int64Array
    """Sorted `pair_keys` of each user's distinct new items after the cut (G_u)."""

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.recent.shape[0])

    def truth_sizes(self) -> Int64Array:
        """[users] |G_u|."""
        return np.bincount(self.truth >> 32, minlength=self.users)


@dataclass(frozen=True)
class NextCases:
    """Clicks of held-out sessions, each with the next click on another item in its session
    (`heldout.next_items`)."""

    user: Int32Array
    """[cases] number of the user among those with a case: the unit of the bootstrap."""
    trigger: Int32Array
    """[cases] item clicked."""
    target: Int32Array
    """[cases] item clicked next."""

    def __len__(self) -> int:
        return len(self.target)

    def part(self, block: slice) -> "NextCases":
        """Some of the cases, in the same order."""
        return NextCases(self.user[block], self.trigger[block], self.target[block])


def pair_keys(user: AnyIntArray, item: AnyIntArray) -> Int64Array:
    """One number for each (user, item)."""
    return user.astype(np.int64) << 32 | item


def read_heldout_cases(
    folder: Location, catalogue: Catalogue, recent_items: int, validation_users: float
) -> tuple[UserCases, NextCases, int]:
    """Reads a held-out folder, whose items the catalogue knows, and how many users were left out:
    this share of them, for validation.

    Raises ManifestError where the folder is not whole, EvaluationError where its tables do not fit
    each other or hold nothing to judge: one of the two protocols may be without a case.
    """
    heldout.check(folder)
    everybody = read_table(folder / heldout.HISTORY)
    history = _judged(everybody, validation_users)
    sessions = _judged(read_table(folder / heldout.SESSIONS), validation_users)
    users = history.column("user_id").combine_chunks()
    user_of = pc.index_in(sessions.column("user_id"), value_set=users)
    if user_of.null_count:
        raise EvaluationError(
            f"{folder}: {heldout.SESSIONS} has users that {heldout.HISTORY} lacks; run "
            "jobs/preprocess.py again"
        )
    user_of = np.asarray(user_of).astype(np.int32)
    before = _clicks(history, catalogue).rename(columns={"list": "user"})
    after = _clicks(sessions, catalogue).rename(columns={"list": "session"})
    after = after.assign(user=user_of[after["session"]])
    of_users = user_cases(before, after, recent_items, catalogue.size)
    following = next_cases(after)
    left_out = len(everybody) - len(history)
    if not of_users.users and not len(following):
        besides = f", besides {left_out} users for validation" if left_out else ""
        raise EvaluationError(
            f"{folder} holds no user with a new item and no session of two items{besides}: hold "
            "out more in [split]"
        )
    return of_users, following, left_out


def _judged(table: pa.Table, validation_users: float) -> pa.Table:
    """The rows of users who are not for validation."""
    users = table.column("user_id").combine_chunks()
    for_validation = heldout.of_validation(users, validation_users)
    return table.filter(pa.array(~for_validation))


def _clicks(table: pa.Table, catalogue: Catalogue) -> pd.DataFrame:
    """One row a click, in order: `list` (row of the table) and `item`."""
    column = table.column("item_ids")
    lengths = np.asarray(pc.list_value_length(column))
    lists = np.repeat(np.arange(len(lengths)), lengths)
    items = catalogue.rows(pc.list_flatten(column))
    return pd.DataFrame({"list": lists, "item": items})


def user_cases(
    before: pd.DataFrame, after: pd.DataFrame, recent_items: int, size: int
) -> UserCases:
    """The user protocol's cases from clicks (`user`, `item`), in order, before and after the
    cut."""
    had = np.unique(_keys(before))
    truth = np.setdiff1d(_keys(after), had)
    # Users without a new item have no case; the others are numbered anew.
    counted, number = np.unique(truth >> 32, return_inverse=True)
    last_clicks = before.drop_duplicates(["user", "item"], keep="last")
    recent = last_clicks.groupby("user").tail(recent_items)
    return UserCases(
        recent=_matrix(_keys(recent), counted, size, 1.0),
        history=_matrix(had, counted, size, -np.inf),
        truth=pair_keys(number, truth & 0xFFFFFFFF),
    )


def _keys(clicks: pd.DataFrame) -> Int64Array:
    """[clicks] `pair_keys` of user and item."""
    return pair_keys(clicks["user"].to_numpy(), clicks["item"].to_numpy())


def _matrix(pairs: Int64Array, counted: Int64Array, size: int, value: float) -> csr_array[Any]:
    """[counted users, size] float32 with `value` at the pairs of counted users."""
    kept = pairs[np.isin(pairs >> 32, counted)]
    user = np.searchsorted(counted, kept >> 32)
    values = np.full(len(kept), value, np.float32)
    places = user, kept & 0xFFFFFFFF
    return csr_array((values, places), shape=(len(counted), size))


def next_cases(after: pd.DataFrame) -> NextCases:
    """The next-item cases from held-out clicks (`session`, `user`, `item`) in order."""
    columns = after[["session", "user", "item"]].to_numpy().astype(np.int32)
    session, user, item = columns.T
    trigger, target = heldout.next_items(session, item)
    number = np.unique(user[trigger], return_inverse=True)[1].astype(np.int32)
    return NextCases(number, item[trigger], item[target])


def is_rare(following: NextCases, catalogue: Catalogue, rare_clicks: int) -> BoolArray:
    """[cases] whether the target was seen before the cut, but less often than `rare_clicks`."""
    clicks = catalogue.clicks[following.target]
    return (clicks > 0) & (clicks < rare_clicks)
