"""Random draws as functions of their key, and the noise distribution."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import counter_rng
from trainer.objective.chunks import Sampler, lay_out
from trainer.objective.noise import DrawKernel, Noise, alias_table

MASK = 2**64 - 1


def finalise(state: int) -> int:
    """SplitMix64's finaliser in plain integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5))
def test_bits_are_splitmix64_over_the_key(key: list[int]) -> None:
    state = 0
    for part in key:
        state = finalise(((state ^ part) + 0x9E3779B97F4A7C15) & MASK)
    assert counter_rng.bits(*key).tolist() == [state]


def test_the_first_number_of_splitmix64() -> None:
    """Seed 0 gives e220a8397b1dcdaf in the published generator."""
    assert counter_rng.bits(0).tolist() == [0xE220A8397B1DCDAF]


def test_keys_broadcast_and_each_element_stands_alone() -> None:
    table = counter_rng.uniform(3, np.arange(4)[:, None], np.arange(5))
    assert table.shape == (4, 5)
    assert table[2, 4] == counter_rng.uniform(3, 2, 4)[0]
    assert len(np.unique(table)) == table.size


def test_uniform_is_uniform() -> None:
    drawn = counter_rng.uniform(1, np.arange(100_000))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert scipy.stats.kstest(drawn, "uniform").pvalue > 0.001


@given(st.integers(0, 300), st.integers(0, 2**63 - 1))
def test_permutations(n: int, key: int) -> None:
    assert sorted(counter_rng.permutation(n, key).tolist()) == list(range(n))


def test_a_purpose_is_a_number_of_its_name_alone() -> None:
    assert (
        counter_rng.purpose("order of item")
        == counter_rng.purpose("order of item")
        != counter_rng.purpose("order of shop")
    )
    assert 0 <= counter_rng.purpose("order of item") < 2**63


@pytest.mark.parametrize("exponent", [0.75, 1.0, 0.0])
def test_noise_follows_counts_to_the_exponent(exponent: float) -> None:
    counts, size = np.array([100, 1, 17, 3, 40, 2]), 60_000
    drawn = Noise(counts, exponent).draw(5, np.arange(size))
    weights = counts.astype(float) ** exponent
    observed = np.bincount(drawn, minlength=len(counts))
    assert scipy.stats.chisquare(observed, size * weights / weights.sum()).pvalue > 0.001
    # The test can tell: another exponent is refused.
    other = counts.astype(float) ** (exponent + 0.1)
    assert scipy.stats.chisquare(observed, size * other / other.sum()).pvalue < 1e-6


def test_a_node_that_was_never_clicked_is_never_drawn() -> None:
    drawn = Noise(np.array([0, 5, 0, 0, 1, 0]), 0.75).draw(1, np.arange(20_000))
    assert set(drawn.tolist()) == {1, 4}


def test_exponent_0_draws_every_node_alike_also_those_never_clicked() -> None:
    assert set(Noise(np.array([0, 5, 0]), 0.0).draw(1, np.arange(1000)).tolist()) == {0, 1, 2}


def test_the_ends_of_the_interval_draw_nodes_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Noise(np.array([0, 3, 1, 0]), 1.0)
    monkeypatch.setattr(
        counter_rng, "uniform", lambda *_: np.array([0.0, 0.25, 0.5, 0.75, 1 - 2.0**-53])
    )
    assert set(noise.draw(0).tolist()) == {1, 2}


@pytest.mark.parametrize("nodes", [1, 3, 1000, 100_000])
@pytest.mark.parametrize("count", [1, 64, 300])
def test_the_compiled_draws_are_the_same_numbers(nodes: int, count: int) -> None:
    noise = Noise(np.random.default_rng(nodes).integers(0, 50, nodes) + 1, 0.75)
    for lanes in ([], [(3, 5)], [(0, 130), (7, 0), (2**40, 9)]):
        layout = lay_out(lanes, 8)
        drawn = [
            Sampler(noise, (2**62 + 1, 12), 5, kernel).draw(layout.lane, layout.number, count)
            for kernel in (DrawKernel(), None)
        ]
        assert drawn[0].shape == (layout.chunks, count)
        assert drawn[0].tolist() == drawn[1].tolist()


@pytest.mark.parametrize("nodes", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("kind", ["even", "random", "steep", "mostly 0"])
def test_an_alias_table_holds_the_weights(nodes: int, kind: str) -> None:
    random, first = np.random.default_rng(nodes), np.arange(nodes) == 0
    weights = {
        "even": np.full(nodes, 0.1),
        "random": random.random(nodes) + 0.01,
        "steep": 1 / (1.0 + np.arange(nodes)) ** 2,
        "mostly 0": np.where(random.random(nodes) < 0.8, 0, random.pareto(1.0, nodes)) + first,
    }[kind]
    keep, alias = alias_table(weights)
    shares = (keep + np.bincount(alias, weights=1 - keep, minlength=nodes)) / nodes
    assert shares == pytest.approx(weights / weights.sum(), rel=1e-9, abs=1e-12)
    assert not shares[weights == 0].any()


def test_noise_over_ten_million_nodes() -> None:
    """Halves of the view that are clicked once and eight times are drawn as 1 to 8^0.75; first and
    last nodes can be drawn."""
    nodes, drawn = 10_000_000, 1_000_000
    counts = np.ones(nodes, np.int64)
    counts[nodes // 2 :] = 8
    rows = Noise(counts, 0.75).draw(3, np.arange(drawn))
    expected = 8**0.75 / (1 + 8**0.75)
    assert (rows >= nodes // 2).mean() == pytest.approx(
        expected, abs=4 * (expected * (1 - expected) / drawn) ** 0.5
    )
    assert rows.min() < 100
    assert rows.max() >= nodes - 100


def test_a_view_without_clicks_has_no_noise() -> None:
    with pytest.raises(ValueError, match="without clicked nodes"):
        Noise(np.array([0, 0]), 0.75)


@given(st.lists(st.integers(0, 20), max_size=4), st.integers(1, 8))
def test_tokens_of_a_lane_fill_whole_chunks_in_order(counts: list[int], chunk: int) -> None:
    layout = lay_out([(10 * number, count) for number, count in enumerate(counts)], chunk)
    rows, token = [], 0
    for count in counts:
        padded = [*range(token, token + count), *[-1] * (-count % chunk)]
        rows += [padded[first : first + chunk] for first in range(0, len(padded), chunk)]
        token += count
    assert layout.spread(np.arange(token), -1).tolist() == rows
    chunks = [-(-count // chunk) for count in counts]
    assert layout.lane.tolist() == [
        10 * number for number, many in enumerate(chunks) for _ in range(many)
    ]
    assert layout.number.tolist() == [number for many in chunks for number in range(many)]
