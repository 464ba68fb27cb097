"""What is asked of a model: the users and the next items of the held-out part, as arrays of
catalogue rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from jobs.similarity.catalogue import Catalogue, EvaluationError, Ints
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
    truth: npt.NDArray[np.int64]
    """Sorted `pair_keys` of each user's distinct new items after the cut (G_u)."""

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.recent.shape[0])

    def truth_sizes(self) -> npt.NDArray[np.int64]:
        """[users] |G_u|."""
        return np.bincount(self.truth >> 32, minlength=self.users)


@dataclass(frozen=True)
class NextCases:
    """Clicks of held-out sessions, each with the next click on another item in its session
    (`heldout.next_items`)."""

    user: Ints
    """[cases] number of the user among those with a case: the unit of the bootstrap."""
    trigger: Ints
    """[cases] item clicked."""
    target: Ints
    """[cases] item clicked next."""


def pair_keys(
    user: npt.NDArray[np.integer[Any]], item: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.int64]:
    """One number for each (user, item)."""
    return user.astype(np.int64) << 32 | item


def read_cases(
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
    before, after = _clicks(history, catalogue), _clicks(sessions, catalogue)
    after = after.rename(columns={"list": "session"}).assign(user=user_of[after["list"]])
    users_asked, next_asked = (
        user_cases(before.rename(columns={"list": "user"}), after, recent_items, catalogue.size),
        next_cases(after),
    )
    left_out = len(everybody) - len(history)
    if not users_asked.users and not len(next_asked.user):
        besides = f", besides {left_out} users for validation" if left_out else ""
        raise EvaluationError(
            f"{folder} holds no user with a new item and no session of two items{besides}: hold "
            "out more in [split]"
        )
    return users_asked, next_asked, left_out


def _judged(table: pa.Table, validation_users: float) -> pa.Table:
    """The rows of users who are not for validation."""
    return table.filter(
        pa.array(~heldout.of_validation(table.column("user_id").combine_chunks(), validation_users))
    )


def _clicks(table: pa.Table, catalogue: Catalogue) -> pd.DataFrame:
    """One row a click, in order: `list` (row of the table) and `item`."""
    column = table.column("item_ids")
    lengths = np.asarray(pc.list_value_length(column))
    return pd.DataFrame(
        {
            "list": np.repeat(np.arange(len(lengths)), lengths),
            "item": catalogue.rows(pc.list_flatten(column)),
        }
    )


def user_cases(
    before: pd.DataFrame, after: pd.DataFrame, recent_items: int, size: int
) -> UserCases:
    """The user protocol's cases from clicks (`user`, `item`), in order, before and after the
    cut."""
    had = np.unique(pair_keys(before["user"].to_numpy(), before["item"].to_numpy()))
    truth = np.setdiff1d(pair_keys(after["user"].to_numpy(), after["item"].to_numpy()), had)
    counted, number = np.unique(truth >> 32, return_inverse=True)
    recent = (
        before.drop_duplicates(["user", "item"], keep="last").groupby("user").tail(recent_items)
    )
    return UserCases(
        recent=_matrix(
            pair_keys(recent["user"].to_numpy(), recent["item"].to_numpy()), counted, size, 1.0
        ),
        history=_matrix(had, counted, size, -np.inf),
        truth=pair_keys(number, truth & 0xFFFFFFFF),
    )


def _matrix(
    pairs: npt.NDArray[np.int64], counted: npt.NDArray[np.int64], size: int, value: float
) -> csr_array[Any]:
    """[counted users, size] float32 with `value` at the pairs of counted users."""
    kept = pairs[np.isin(pairs >> 32, counted)]
    at = np.searchsorted(counted, kept >> 32), kept & 0xFFFFFFFF
    return csr_array((np.full(len(kept), value, np.float32), at), shape=(len(counted), size))


def next_cases(after: pd.DataFrame) -> NextCases:
    """The next-item cases from held-out clicks (`session`, `user`, `item`) in order."""
    session, user, item = (
        after[name].to_numpy().astype(np.int32) for name in ("session", "user", "item")
    )
    trigger, target = heldout.next_items(session, item)
    number = np.unique(user[trigger], return_inverse=True)[1].astype(np.int32)
    return NextCases(number, item[trigger], item[target])
