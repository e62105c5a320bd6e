"""Answer entropy and margin: exact on systems whose logits are known."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.attractors.ensemble.certainty import cell_entropy, certainty
from eqrlab.core import MapSystem
from tests.zoo import normal_start, puzzles


class Known(MapSystem):
    """z -> z / 2 in two numbers; the logits of cell i are (0, z_i, -z_i), those of a third cell are given."""

    def __init__(self, third=(0.0, 0.0, 5.0)):
        super().__init__(
            lambda z, x: z / 2, normal_start(2), lambda z, x: Known.logits(self, z, x).argmax(-1)
        )
        self.third = torch.tensor(third, dtype=torch.float64)

    def logits(self, z, x):
        two = torch.stack((torch.zeros_like(z), z, -z), -1)
        return torch.cat((two, self.third.expand(len(z), 1, 3)), 1)


def truth(logits):
    """Entropy and margin of (..., S, V) logits, by definition, in numpy."""
    chance = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    entropy = -(chance * np.log(chance)).sum(-1)
    ordered = np.sort(logits, -1)
    return entropy, ordered[..., -1] - ordered[..., -2]


def test_entropy_and_margin_of_every_step_are_those_of_the_logits():
    system = Known()
    ensemble = at.sample(system, puzzles(2), restarts=3, depth=4, keep=("trajectory",))
    z = torch.as_tensor(ensemble.trajectory.values)
    logits = system.logits(z.flatten(0, 2), None).numpy().reshape(*z.shape[:3], 3, 3)
    entropy, margin = truth(logits)
    np.testing.assert_allclose(ensemble.answer_entropy, entropy.mean(-1), rtol=1e-12)
    np.testing.assert_allclose(ensemble.answer_margin, margin.min(-1), rtol=1e-12)
    assert ensemble.answer_entropy.dtype == np.float64, "no digits are lost on the way"


def test_cells_that_do_not_count_take_no_part():
    system, labels = Known(third=(9.0, 0.0, 0.0)), torch.tensor([[1, 0, 0], [0, 0, 0]])
    ensemble = at.sample(system, puzzles(2), labels=labels, restarts=3, depth=2, keep=("trajectory",))
    z = torch.as_tensor(ensemble.trajectory.values[0])
    entropy, margin = truth(system.logits(z.flatten(0, 1), None).numpy().reshape(3, 2, 3, 3)[:, :, :1])
    np.testing.assert_allclose(ensemble.answer_entropy[0], entropy[..., 0], rtol=1e-12)
    np.testing.assert_allclose(ensemble.answer_margin[0], margin[..., 0], rtol=1e-12)
    assert np.isnan(ensemble.answer_entropy[1]).all() and np.isnan(ensemble.answer_margin[1]).all()


def test_certain_and_even_cells_have_the_exact_extremes():
    even, sure = torch.zeros(1, 2, 7, dtype=torch.float64), torch.zeros(1, 2, 7, dtype=torch.float64)
    sure[..., 3] = 1e4
    entropy, margin = certainty(even)
    assert torch.allclose(entropy, torch.tensor(7.0, dtype=torch.float64).log()) and margin == 0
    entropy, margin = certainty(sure)
    assert entropy == 0 and margin == 1e4
    entropy, margin = certainty(torch.zeros(1, 2, 1))
    assert entropy == 0 and margin == torch.inf, "a single token has no rival"
    assert torch.isnan(cell_entropy(torch.full((1, 1, 3), torch.nan))).all()


def test_a_system_without_logits_has_neither_and_nothing_else_changes():
    system = Known()
    bare = MapSystem(system._step, system._initial, system._decode)
    with_logits, without = (at.sample(s, puzzles(2), restarts=3, depth=6) for s in (system, bare))
    assert set(with_logits.data_vars) - set(without.data_vars) == {"answer_entropy", "answer_margin"}
    assert with_logits.drop_vars(["answer_entropy", "answer_margin"]).equals(without)


def test_logits_of_another_shape_are_refused():
    system = Known()
    system.logits = lambda z, x: torch.zeros(len(z), 3)
    with pytest.raises(ValueError, match=r"logits must return \(n, L, V\), got \(3, 3\)"):
        at.sample(system, puzzles(1), restarts=3, depth=2)
    with pytest.raises(ValueError, match=r"logits must return \(n, 2, V\), got \(1, 3, 4\)"):
        certainty(torch.zeros(1, 3, 4), torch.ones(1, 2, dtype=torch.bool))
