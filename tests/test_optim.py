"""AdamATan2 against the rule written out for one number."""

from __future__ import annotations

import math

import pytest
import torch

from eqrlab.core.training.optim import AdamATan2


def reference(p, gradients, lr, beta1, beta2, decay, inside=False):
    """The rule for one scalar in Python floats; `inside` puts the first bias correction into the arc tangent."""
    m = v = 0.0
    path = []
    for t, g in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        correction, root = 1 - beta1**t, math.sqrt(v / (1 - beta2**t))
        p *= 1 - lr * decay
        p -= lr * math.atan2(m / correction, root) if inside else lr / correction * math.atan2(m, root)
        path.append(p)
    return path


def optimised(starts, gradients, **options):
    """Paths of several parameters, [step][parameter]."""
    parameters = [torch.tensor([p], dtype=torch.float64, requires_grad=True) for p in starts]
    optimiser = AdamATan2(parameters, **options)
    path = []
    for row in gradients:
        for p, g in zip(parameters, row, strict=True):
            p.grad = torch.tensor([g], dtype=torch.float64)
        optimiser.step()
        path.append([p.item() for p in parameters])
    return path


def random_gradients(steps):
    torch.manual_seed(1)
    scale = torch.tensor([1.0, 1e-6, 1e4])
    return (torch.randn(steps, 3, dtype=torch.float64) * scale + 0.3 * scale).tolist()


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_steps_follow_the_rule_whatever_the_size_of_the_gradients(decay):
    gradients = random_gradients(50)
    got = optimised([0.5, -2.0, 1.0], gradients, lr=1e-2, betas=(0.9, 0.95), weight_decay=decay)
    for i, start in enumerate((0.5, -2.0, 1.0)):
        want = reference(start, [row[i] for row in gradients], 1e-2, 0.9, 0.95, decay)
        assert [row[i] for row in got] == pytest.approx(want, rel=1e-13)


def test_the_place_of_the_bias_correction_matters_only_at_first():
    gradients = [g[0] for g in random_gradients(400)]
    outside = reference(0.0, gradients, 1.0, 0.9, 0.95, 0.0)
    inside = reference(0.0, gradients, 1.0, 0.9, 0.95, 0.0, inside=True)
    assert outside[0] / inside[0] == pytest.approx(10 * math.atan(0.1) / (math.pi / 4))  # 1.27: 21 % smaller
    late = [(outside[t] - outside[t - 1]) - (inside[t] - inside[t - 1]) for t in range(300, 400)]
    assert max(map(abs, late)) < 1e-11


def test_updates_are_bounded_and_zero_gradients_change_nothing():
    got = optimised([1.0], [[1e300]] + [[0.0]] * 3, lr=0.1, weight_decay=0.0)
    assert abs(got[0][0] - 1.0) <= 0.1 * 10 * math.pi / 2
    still = optimised([1.0], [[0.0]] * 3, lr=0.1, weight_decay=0.0)
    assert still == [[1.0]] * 3


def test_parameters_without_gradient_stay_and_groups_have_their_own_step_size():
    one, other, idle = (torch.ones(2, requires_grad=True) for _ in range(3))
    optimiser = AdamATan2(
        [{"params": [one, idle], "lr": 0.1}, {"params": [other], "lr": 0.2}], weight_decay=0.0
    )
    one.grad, other.grad = torch.ones(2), torch.ones(2)
    optimiser.step()
    assert torch.equal(idle, torch.ones(2))
    assert torch.allclose(1 - other, 2 * (1 - one))


def test_a_parameter_that_joins_late_has_its_own_bias_correction():
    early, late = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimiser = AdamATan2([early, late], lr=0.1, weight_decay=0.0)
    for step in range(3):
        early.grad = torch.ones_like(early)
        late.grad = torch.ones_like(late) if step == 2 else None
        optimiser.step()
    assert late.item() == pytest.approx(reference(0.0, [1.0], 0.1, 0.9, 0.95, 0.0)[0], rel=1e-13)


def test_options_out_of_range_are_refused():
    for options in ({"lr": -1.0}, {"betas": (1.0, 0.9)}, {"weight_decay": -0.1}):
        with pytest.raises(ValueError, match="must be >= 0 and betas in"):
            AdamATan2([torch.zeros(1, requires_grad=True)], **options)
