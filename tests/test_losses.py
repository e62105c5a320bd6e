"""Losses against direct formulas; gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from eqrlab.core.training.losses import exact, halting_loss, log_stablemax, stablemax_cross_entropy


def test_stablemax_is_its_formula():
    logits = [-1e6, -30.0, -2.0, -0.5, 0.0, 0.5, 40.0]
    s = [x + 1 if x >= 0 else 1 / (1 - x) for x in logits]
    expected = torch.tensor([math.log(v / sum(s)) for v in s], dtype=torch.float64)
    got = log_stablemax(torch.tensor(logits))
    assert got.dtype == torch.float64
    assert torch.allclose(got, expected, rtol=1e-12)
    assert torch.allclose(got.exp().sum(), torch.ones((), dtype=torch.float64))


def test_cross_entropy_is_the_mean_over_counted_cells():
    logits = torch.randn(2, 4, 5, dtype=torch.float64)
    labels = torch.tensor([[1, 0, 4, 2], [3, 3, 0, 0]])
    p = log_stablemax(logits)
    expected = [-(p[0, 0, 1] + p[0, 2, 4] + p[0, 3, 2]) / 3, -(p[1, 0, 3] + p[1, 1, 3]) / 2]
    assert torch.allclose(stablemax_cross_entropy(logits, labels), torch.stack(expected))


# Forward mode loads decompositions that torch itself still writes with torch.jit.script.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_gradients_agree_with_finite_differences_on_both_branches():
    logits = torch.randn(2, 3, 5, dtype=torch.float64) * 3
    logits[0, 0, 0] = 0.0  # where the branches meet
    labels = torch.tensor([[1, 2, 3], [4, 0, 1]])
    f = lambda x: stablemax_cross_entropy(x, labels).sum()
    assert torch.autograd.gradcheck(f, logits.requires_grad_(), eps=1e-6, atol=1e-6, check_forward_ad=True)


def test_ignored_cells_carry_no_loss_and_no_gradient():
    logits = torch.randn(1, 3, 4, requires_grad=True)
    labels = torch.tensor([[2, 0, 1]])
    stablemax_cross_entropy(logits, labels).sum().backward()
    assert logits.grad[0, 1].abs().max() == 0 and logits.grad[0, 0].abs().min() > 0
    nothing = stablemax_cross_entropy(logits.detach(), torch.zeros(1, 3, dtype=torch.long))
    assert nothing.tolist() == [0.0]


def test_huge_logits_give_finite_losses_and_gradients():
    logits = torch.tensor([[[1e30, -1e30, 0.0]]], requires_grad=True)
    loss = stablemax_cross_entropy(logits, torch.tensor([[1]]))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()


def test_exact_needs_every_counted_cell_and_at_least_one():
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 2], [1, 1], [1, 2], [0, 0]]), 4).float()
    labels = torch.tensor([[1, 2], [1, 2], [1, 0], [0, 0]])
    assert exact(logits, labels).tolist() == [True, False, True, False]


def test_halting_loss_is_binary_cross_entropy():
    q, right = torch.tensor([2.0, -1.0]), torch.tensor([True, False])
    expected = [math.log1p(math.exp(-2.0)), math.log1p(math.exp(-1.0))]
    assert torch.allclose(halting_loss(q, right), torch.tensor(expected))
