"""Terms added to the objective that shape late states: sure answers, answers that outlast a push, contraction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eqrlab.core.models.reasoner import Reasoner
from eqrlab.core.random import KeyedNoise, restart_keys
from eqrlab.core.training.objective import TrainConfig, segment

PUSH = 0.1  # size of the push of "stability", relative to that of the state
ITERATIONS = 3  # of power iteration in "spectral", without gradient, before the one that counts


def entropy_term(model: Reasoner, z: Tensor, x: Tensor, counted: Tensor, normals: Tensor) -> Tensor:
    """Return the answer entropy (n,): the mean over the counted cells of the entropy of their softmax, in nats.

    Notes
    -----
    The value is `attractors.sample`'s `answer_entropy`.  It is computed from log-probabilities, whose gradient stays
    finite where a probability is 0.
    """
    log_chance = _log_chance(model, z, x)
    return _mean(-(log_chance.exp() * log_chance).sum(-1), counted)


def stability_term(model: Reasoner, z: Tensor, x: Tensor, counted: Tensor, normals: Tensor) -> Tensor:
    """Return how far a push of the state moves the answer (n,): a divergence, mean over the counted cells, in nats.

    Notes
    -----
    The state z, and z pushed along `normals` by PUSH times its own length, take one noise-free outer step each.  The
    term is KL(p || q) of the answer's distributions p after the plain step, which carries no gradient, and q after the
    pushed one.  The gradient is that of the last cycle, as in training.

    References
    ----------
    Miyato et al. 2018, "Virtual adversarial training", with random in place of adversarial directions.
    """
    z = z.detach()
    length = z.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    with torch.no_grad():
        plain = _log_chance(model, model.step(z, x), x)
    pushed = _log_chance(model, segment(model, z + PUSH * length * _unit(normals), x, None), x)
    return _mean((plain.exp() * (plain - pushed)).sum(-1), counted)


def spectral_term(model: Reasoner, z: Tensor, x: Tensor, counted: Tensor, normals: Tensor) -> Tensor:
    """Return the squared leading gain (n,) of one noise-free outer step at the state, ||J v||^2 with ||v|| = 1.

    Notes
    -----
    v comes from `normals` by ITERATIONS of power iteration without gradient, one vector a row; it then stays as it is,
    and so does the state.  Where the leading eigenvalue is real and stands apart, the term tends to the square of the
    spectral radius; without iterations its mean would be ||J||_F^2 over the size of the state.

    References
    ----------
    Yang et al. 2026, "Stabilizing recurrent dynamics for test-time scalable latent reasoning in looped language models"
    (STARS, arXiv 2605.26733), which penalises the spectral radius of the Jacobian; Bai et al. 2021, "Stabilizing
    equilibrium models by Jacobian regularization", which penalises its Frobenius norm by Hutchinson's estimator.
    """

    def gain(direction: Tensor) -> Tensor:
        return torch.func.jvp(lambda state: model.step(state, x), (z.detach(),), (direction,))[1]

    direction = _unit(normals)
    with torch.no_grad():
        for _ in range(ITERATIONS):
            direction = _unit(gain(direction))
    return gain(direction).flatten(1).double().square().sum(1)


Term = Callable[[Reasoner, Tensor, Tensor, Tensor, Tensor], Tensor]
TERMS: dict[str, Term] = {"entropy": entropy_term, "stability": stability_term, "spectral": spectral_term}


def late_terms(
    model: Reasoner, z: Tensor, x: Tensor, counted: Tensor, taken: Tensor, config: TrainConfig, step: int
) -> Tensor:
    """Return the terms (k,) of those of n rows that are late: in the second half of their outer steps.

    Parameters
    ----------
    z, x, counted
        States after a segment (n, ...), contexts, and which cells count (n, S).
    taken
        Outer steps since each row's start (n,).
    config
        Its `regulariser` says which term.
    step
        Number of the segment in the run.  It keys the random directions, together with the seed and the row: they take
        nothing from the generator of a run, which draws the same puzzles, starts and noise with and without them.
    """
    rows = (2 * taken > model.config.halt_max_steps).nonzero().squeeze(1)
    keys = restart_keys(rows.new_full((len(rows),), config.seed), rows)
    normals = KeyedNoise(keys, step)(z[rows])
    assert config.regulariser is not None
    return TERMS[config.regulariser](model, z[rows], x[rows], counted[rows], normals)


def _log_chance(model: Reasoner, z: Tensor, x: Tensor) -> Tensor:
    """Return the logarithms (n, S, V) of the chances of the tokens, in float64 as the losses are."""
    return torch.log_softmax(model.logits(z, x).double(), dim=-1)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Return the mean (n,) of values (n, S) over the counted cells, 0 without any."""
    return torch.where(counted, values, 0.0).sum(-1) / counted.sum(-1).clamp(min=1)


def _unit(direction: Tensor) -> Tensor:
    """Scale every row to length 1; a row of zeros stays."""
    length = direction.flatten(1).norm(dim=1).clamp(min=torch.finfo(direction.dtype).tiny)
    return direction / length.view(-1, *[1] * (direction.ndim - 1))
