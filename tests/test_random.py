"""Keyed random numbers: the same in any company, and normal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from eqrlab.attractors.statistics.bootstrap import cluster_bootstrap
from eqrlab.core import KeyedNoise, StoredNoise
from eqrlab.core.random import GeneratorNoise, puzzle_key, restart_generator, restart_keys
from eqrlab.datasets import Draw, build
from eqrlab.datasets.puzzles import rows_drawn

KEYS = restart_keys(torch.full((6,), 12345), torch.arange(6))


def draw(keys, step=0, shape=(4, 3), calls=1, dtype=torch.float32):
    noise = KeyedNoise(keys, step)
    return [noise(torch.zeros(len(keys), *shape, dtype=dtype)) for _ in range(calls)]


def test_a_row_draws_the_same_alone_in_company_and_in_any_order():
    together = draw(KEYS, step=5, calls=3)
    for row in range(6):
        alone = draw(KEYS[row : row + 1], step=5, calls=3)
        assert all(torch.equal(a[0], t[row]) for a, t in zip(alone, together, strict=True))
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    assert torch.equal(draw(KEYS[order], step=5)[0], together[0][order])
    assert torch.equal(draw(KEYS.repeat(3), step=5)[0][6:12], together[0])


def test_steps_calls_rows_puzzles_and_seeds_draw_different_numbers():
    seen = [n.flatten() for step in range(4) for n in draw(KEYS, step, calls=3)]
    stacked = torch.stack(seen).view(-1)
    assert len(stacked.unique()) > 0.99 * len(stacked)
    assert (
        puzzle_key(0, np.array([1, 2])) != puzzle_key(1, np.array([1, 2])) != puzzle_key(0, np.array([2, 1]))
    )


def test_float64_and_float32_normals_come_from_the_same_bits():
    wide, narrow = draw(KEYS, dtype=torch.float64)[0], draw(KEYS)[0]
    assert (wide - narrow).abs().max() < 1e-5
    assert torch.equal(draw(KEYS, dtype=torch.bfloat16)[0], narrow.bfloat16())
    odd = draw(KEYS, shape=(7,))[0]
    assert odd.shape == (6, 7)


@pytest.fixture(scope="module")
def sample():
    """Normals over [step, call, row, value]."""
    keys = restart_keys(torch.tensor([puzzle_key(0, np.array([p])) for p in range(8)]), torch.arange(8) % 4)
    return (
        torch.stack([torch.stack(draw(keys, step, (64, 64), calls=4)) for step in range(4)])
        .flatten(3)
        .double()
    )


def test_the_normals_are_normal(sample):
    z = sample.flatten().numpy()
    n = len(z)
    assert abs(z.mean()) < 4 / n**0.5
    assert abs(z.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs(stats.skew(z)) < 4 * (6 / n) ** 0.5
    assert abs(stats.kurtosis(z)) < 4 * (24 / n) ** 0.5
    assert stats.kstest(z, "norm").pvalue > 1e-3
    expected = 2 * stats.norm.sf(4) * n
    assert abs((abs(z) > 4).sum() - expected) < 5 * expected**0.5
    assert 4.5 < abs(z).max() < 6.8


def test_each_stream_is_normal_by_itself(sample):
    pvalues = [stats.kstest(row.numpy(), "norm").pvalue for row in sample.flatten(0, 2)]
    assert stats.kstest(pvalues, "uniform").pvalue > 1e-3


def test_values_steps_calls_and_rows_are_uncorrelated(sample):
    streams = sample.flatten(0, 2)  # 4 steps x 4 calls x 8 rows
    correlation = np.corrcoef(streams.numpy())
    off = correlation[~np.eye(len(correlation), dtype=bool)] * streams.shape[1] ** 0.5
    assert abs(off).max() < 5.5 and abs(off.std() - 1) < 0.05
    squares = np.corrcoef((streams**2).numpy())
    assert abs(squares[~np.eye(len(squares), dtype=bool)]).max() * streams.shape[1] ** 0.5 < 6.5
    half = streams.shape[1] // 2  # both normals of one Box-Muller pair
    for shift in (1, 2, 64, half):
        within = (streams[:, :-shift] * streams[:, shift:]).mean() * (
            len(streams) * (streams.shape[1] - shift)
        ) ** 0.5
        assert abs(within) < 4.5
    pair = (streams[:, :half] ** 2 - 1) * (streams[:, half:] ** 2 - 1)
    assert abs(pair.mean()) * pair.numel() ** 0.5 / 2 < 4.5


def test_neighbouring_restart_numbers_give_unrelated_noise():
    keys = restart_keys(torch.zeros(200, dtype=torch.long), torch.arange(200))
    z = draw(keys, shape=(500,))[0].double().numpy()
    lagged = (z[1:] * z[:-1]).mean(1) * 500**0.5
    assert stats.kstest(lagged, "norm").pvalue > 1e-3


def test_rows_at_steps_of_their_own_draw_what_they_draw_one_by_one():
    keys, steps = torch.tensor([5, -9, 5]), torch.tensor([3, 1, 2000])
    together = KeyedNoise(keys, steps)
    apart = [KeyedNoise(keys[i : i + 1], int(steps[i])) for i in range(3)]
    like = torch.zeros(3, 7)
    for _ in range(2):
        assert torch.equal(together(like), torch.cat([noise(like[:1]) for noise in apart]))


def test_restarts_of_a_puzzle_never_share_a_seed():
    for key in (0, 1, -7, puzzle_key(3, np.arange(36))):
        seeds = {restart_generator(key, restart).initial_seed() for restart in range(4096)}
        assert len(seeds) == 4096
    assert len(set(restart_keys(torch.zeros(4096, dtype=torch.long), torch.arange(4096)).tolist())) == 4096


def test_a_restart_starts_where_it_did_before():
    draws = [torch.rand(5, generator=restart_generator(99, 7)) for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.rand(5, generator=restart_generator(99, 8)))


def test_puzzle_keys_depend_on_tokens_and_seed_alone():
    tokens = np.array([1, 5, 0])
    keys = {
        puzzle_key(2, form) for form in (tokens, tokens.astype(np.uint8), torch.tensor(tokens), tokens[None])
    }
    assert len(keys) == 1


def test_a_negative_seed_is_a_seed_like_any_other():
    one, other = (build("sudoku4", 1, "easy", seed=seed).inputs for seed in (-1, -2))
    assert (one != other).any() and len(rows_drawn(9, Draw(2, -1))) == 2
    mean = lambda w: w @ np.arange(5) / w.sum()
    assert np.isfinite(cluster_bootstrap(mean, 5, resamples=20, seed=-1)).all()


def test_no_rows_draw_no_numbers():
    assert KeyedNoise(torch.empty(0, dtype=torch.int64), 1)(torch.empty(0, 2, 3)).shape == (0, 2, 3)


def test_stored_noise_is_replayed_in_order_and_ends():
    entries = torch.arange(24.0).view(2, 3, 4)
    noise = StoredNoise(entries)
    like = torch.zeros(3, 4, dtype=torch.float64)
    assert torch.equal(noise(like), entries[0].double()) and torch.equal(noise(like), entries[1].double())
    with pytest.raises(ValueError, match="stored noise has 2 entries, call 3 has none"):
        noise(like)
    with pytest.raises(ValueError, match=r"stored noise has shape \(3, 4\), the state \(2, 4\)"):
        StoredNoise(entries)(like[:2])


def test_training_noise_follows_its_generator():
    one, other = (GeneratorNoise(torch.Generator().manual_seed(4))(torch.zeros(2, 3)) for _ in range(2))
    assert torch.equal(one, other)
