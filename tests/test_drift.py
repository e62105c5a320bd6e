"""Answer settled, state drifting: streams whose norm grows for ever reach an answer; slow contractions do not."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.analyses.text.verdicts import drift_sentence
from eqrlab.attractors.fates.drift import grows_for_ever, turn_left
from eqrlab.attractors.results.schema import ADVICE, FATES
from eqrlab.core import MapSystem
from tests.zoo import contraction, linear, logistic, normal_start, puzzles

GENERATOR = torch.Generator().manual_seed(3)
W = torch.randn(24, 24, generator=GENERATOR, dtype=torch.float64) / 24**0.5
B = torch.randn(24, generator=GENERATOR, dtype=torch.float64)
ALL = torch.full((1, 3), 2)


def unit(z):
    return z / z.norm(dim=1, keepdim=True)


def signs(z, x):
    return (z[:, :3] * B[:3].sign() > 0).long() + 1  # right (2) where a state points along B


def stream(update, size=24):
    """z -> z + update(z): an un-normalised residual stream."""
    return MapSystem(lambda z, x: z + update(z), normal_start(size), signs)


STREAMS = {
    "constant": stream(lambda z: B),
    "short": stream(lambda z: 0.01 * B),
    "of the direction": stream(lambda z: B + torch.tanh(0.3 * unit(z) @ W.T)),
    "slowing like t^-1/2": stream(lambda z: (B + 0.3 * unit(z) @ W.T) / z.norm(dim=1, keepdim=True)),
    "slowing like t^-1/4": stream(lambda z: B / z.norm(dim=1, keepdim=True) ** 0.3),
    "normalised, scaled and added": stream(
        lambda z: 0.3 * torch.tanh(z / z.pow(2).mean(1, keepdim=True).sqrt() @ W.T * 0.2 + B)
    ),
    "growing like a square": stream(lambda z: B * z.norm(dim=1, keepdim=True) ** 0.5),
}


@pytest.mark.parametrize("depth", [192, 600])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_reaches_its_answer(name, depth):
    start = None if name != "short" else lambda x, g: 0.1 * normal_start(24)(x, g)
    runs = at.sample(STREAMS[name], puzzles(), labels=ALL, restarts=12, depth=depth, initial=start)
    assert {FATES[i] for i in runs.fate.values[0]} == {"recurrent"}
    assert not {FATES[i] for i in runs.state_fate.values[0]} & {"settled", "recurrent", "periodic"}
    np.testing.assert_allclose(runs.drift_rate, runs.relative_residual[:, :, -1], rtol=0.1)
    assert bool(runs.correct[0, :, -1].all()) and float(at.basins(runs).correct_mass[0]) == 1
    verdict = at.modes(runs)
    assert ADVICE[int(verdict.advice[0])] != "buy_depth" and int(verdict.depth_needed[0]) == depth
    assert "Answer settled, state drifting: 12 runs of 12" in drift_sentence(runs)


def test_the_rate_is_that_of_the_last_step():
    runs = at.sample(STREAMS["constant"], puzzles(), restarts=2, depth=200, keep=("final_state",))
    np.testing.assert_allclose(
        runs.drift_rate[0], float(B.norm()) / np.linalg.norm(runs.final_state[0], axis=1), rtol=1e-6
    )


SLOW = {
    "a slow contraction": (contraction(1 - 1e-3), 512),
    "from a small start": (
        MapSystem(lambda z, x: 1 + (1 - 1e-3) * (z - 1), lambda x, g: 1e-3 * normal_start(3)(x, g)),
        512,
    ),
    "in one dimension": (contraction(1 - 1e-3, size=1), 256),
    "algebraic decay": (logistic(3.0), 400),
    "a cubic": (MapSystem(lambda z, x: z - z**3, lambda x, g: 0.5 * normal_start(2)(x, g).clamp(-1, 1)), 400),
    "exponential growth": (linear(1.01 * torch.eye(3, dtype=torch.float64)), 200),
    "a slow turn": (linear(torch.linalg.matrix_exp(torch.tensor([[0, -1e-3], [1e-3, 0]]).double())), 400),
    "a spiral outwards": (MapSystem(lambda z, x: z + torch.stack((z[:, 1], -z[:, 0]), 1) / z.norm(dim=1, keepdim=True),
                                    normal_start(2)), 400),
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_what_may_yet_change_its_answer_stays_unfinished(name):
    system, depth = SLOW[name]
    runs = at.sample(system, puzzles(), restarts=20, depth=depth)
    assert {FATES[i] for i in runs.fate.values[0]} == {"unfinished"} and np.isnan(runs.drift_rate).all()


def test_a_stream_whose_answer_changed_late_is_unfinished():
    """The answer turns at step 150 of 200: it is not known to stand."""
    late = MapSystem(lambda z, x: z + B, lambda x, g: -150.5 * B.expand(len(x), 24).clone(), signs)
    runs = at.sample(late, puzzles(), restarts=2, depth=200)
    assert "recurrent" not in {FATES[i] for i in runs.fate.values[0]}


def test_depth_is_not_advised_where_runs_slow_down_for_ever():
    """The residual at r = 3 falls like t^-1/2: no depth would settle it.  A geometric decay is worth its depth."""
    marginal = logistic(3.0)
    labels = torch.tensor([[1]])
    stuck = at.modes(at.sample(marginal, puzzles(), labels=labels, restarts=20, depth=256))
    assert ADVICE[int(stuck.advice[0])] == "depth_will_not_tell" and int(stuck.depth_needed[0]) == -1
    slow = at.modes(
        at.sample(contraction(0.999), puzzles(), labels=torch.tensor([[2]]), restarts=20, depth=256)
    )
    assert ADVICE[int(slow.advice[0])] == "buy_depth" and int(slow.depth_needed[0]) >= 2048


def test_growth_and_turning_by_hand():
    t = np.arange(1.0, 257)
    size = np.stack([t, t**0.5, 2 - 0.99**t, 1.02**t, np.ones(256)])
    update = np.stack([0 * t + 1, 0.5 * t**-0.5, 0.01 * 0.99**t, 0.02 * 1.02**t, 1 / t])
    assert grows_for_ever(update, size).tolist() == [True, True, False, False, False]
    angle = np.stack([1 / t, 0 * t, 0.01 * t, 0.3 * np.log(t)])
    turn = turn_left(np.stack([np.cos(angle), np.sin(angle)], 2) * t[None, :, None])
    np.testing.assert_allclose(turn[:2], [1 / 256, 0], rtol=0.05, atol=1e-12)
    assert np.isinf(turn[2:]).all()
