"""What the evaluation can be told: the section [evaluate] of a configuration file. Every field's
text is also the text of `--help`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.config import Section

Score = Literal["cosine", "conditional", "inner"]


class Evaluate(Section):
    """[evaluate] Similarity maps and their evaluation."""

    k: int = Field(default=50, ge=1)
    """K of HitRate@K and the others: recommendations a user or a trigger gets."""
    neighbours: int = Field(default=200, ge=1)
    """Nearest neighbours of an item in its similarity map, and those that the user protocol adds
    up; at least `k`."""
    recent_items: int = Field(default=10, ge=1)
    """Last distinct items before the cut whose neighbours are recommended to a user."""
    rare_clicks: int = Field(default=20, ge=1)
    """An item clicked less often than this before the cut is rare."""
    scores: tuple[Score, ...] = ("cosine", "conditional", "inner")
    """Scores that are judged side by side."""
    score: Score = "conditional"
    """Score of the similarity map. cosine: unit input vectors; conditional: input vector of the
    trigger . output vector of the candidate + `conditional_exponent` log count, as a softmax over
    the trigger's list; inner: input vectors as they are (the paper's)."""
    conditional_exponent: float = Field(default=0.75, ge=0)
    """Exponent a of the candidate's count in the conditional score: at most the noise exponent."""
    cosine_count_exponent: float = Field(default=0.0, ge=0)
    """Exponent beta: a unit vector of the cosine score gets the length count^beta."""
    item_cf_window: int = Field(default=50, ge=1)
    """Item-CF counts items of one session at most this many clicks apart."""
    item_cf_exponent: float = Field(default=0.25, ge=0)
    """Item-CF divides by (sessions of the candidate)^this: 0.5 makes it the cosine of the two
    items' sessions, 0 favours the popular."""
    validation_users: float = Field(default=0.1, ge=0, lt=1)
    """Share of the held-out users who are for validation: training is judged by their next items
    while it goes on (`train.best_by`, `train.early_stop`), and the evaluation leaves them out. The
    same users whatever else is set; a larger share adds to them."""
    bootstrap: int = Field(default=1000, ge=0)
    """Bootstrap samples of users behind each 95 % interval; 0: no intervals."""

    @model_validator(mode="after")
    def _a_list_holds_k_items(self) -> Self:
        if self.k > self.neighbours:
            raise ValueError(
                f"k = {self.k} recommendations from lists of neighbours = {self.neighbours}: "
                "raise neighbours or lower k"
            )
        return self
