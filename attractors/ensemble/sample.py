"""Trajectory ensembles: many restarts of every puzzle, run to a depth, with residuals, answers and fates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.judge import Oracle
from eqrlab.attractors.ensemble.options import WorkOptions, check_options
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.fates.fate import Tolerances
from eqrlab.core import System


def sample(
    system: System,
    inputs: Tensor | np.ndarray,
    *,
    labels: Tensor | np.ndarray | None = None,
    identifiers: Tensor | np.ndarray | None = None,
    restarts: int = 64,
    depth: int = 64,
    seed: int = 0,
    noise: float | None = None,
    initial: Tensor | Law | None = None,
    keep: Sequence[str] = ("summary",),
    oracle: Oracle | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    tolerances: Tolerances | None = None,
    first_restart: int = 0,
    residuals: str = "all",
    retire: bool = False,
    **work: Unpack[WorkOptions],
) -> xr.Dataset:
    """Run `restarts` trajectories of `depth` outer steps for every puzzle.

    Parameters
    ----------
    system
        Any `eqrlab.core.System`.
    inputs
        Puzzles (P, L), integer tokens.
    labels
        Solutions (P, L); cells with label 0 do not count, -1 stands for a token 0 that does.
        Without labels and oracle nothing is known of correctness.
    identifiers
        Of the puzzles, (P,) integers >= 0, for systems whose `encode` takes them; None where they have none.  Equal
        inputs with different identifiers are different puzzles.
    restarts, depth
        Breadth B and depth D, both >= 1.
    seed
        Random numbers are keyed by (seed, input tokens, identifier if there is one, restart): a restart gives
        the same run, up to rounding, alone or with others and in any order.
    noise
        Noise amplitude beta in every level call; None: the system's own test-time noise, 0: none.
    initial
        Starts: a tensor (P, B, *state_shape), a callable `(x, generator) -> z`, or None for the system's restart law.
    batch_size
        Rows run at once; None chooses from the size of a state.  Results depend on it only by rounding.
    keep
        "summary" always; "path": a projection of every state, for pictures; "final_state"; "trajectory": all states;
        "logit_delta": change of the logits at every step, for systems with `logits`.
    oracle
        `(inputs, answers) -> (n,) bool`, both (n, L): decides correctness instead of equality with the labels.
    device, dtype
        Where and in which precision to iterate; None leaves them to the system.
    tolerances
        Thresholds of the fates.
    first_restart
        Number of the first restart.  Since restart r is the same in any ensemble, this adds restarts to an ensemble.
    residuals
        "all", or "sparse": if a residual needs an evaluation of its own (with noise, or a state in half precision), it
        is measured only after 1, 2, 4, 8, ... steps and throughout the last quarter of the steps, at most 16, and is
        NaN elsewhere.  Fates and settling steps are then found from these steps.
    retire
        Whether a run without noise stops when it is at rest: its relative residual is at most 4 epsilons and its answer
        has been unchanged for a quarter of the depth (at most 16 steps). Its last values are repeated for all later
        steps; `retired_step` is the step after which it stopped, -1 for runs that continued.
    progress
        True shows a bar on a terminal; a callable receives (row-steps done, all).

    Returns
    -------
    xarray.Dataset
        Over (puzzle, restart, step): `residual` = ||f(z; x) - z||, noise off, over the whole state after `step` steps,
        `relative_residual`, `update`, `correct`, `token_accuracy`, `answer_id` (equal for equal answers of a puzzle),
        `halt_logit` where the system has one; where it has `logits`, `answer_entropy` = mean over the cells that count
        of the entropy of the cell's distribution (softmax, in nats), and `answer_margin` = the smallest difference
        between the largest and the second largest logit of a cell.  Over (puzzle, restart): `fate` and its two axes
        `state_fate`, `answer_fate` (see `fates.fate`); `period`, `answer_settled`, `settling_step`, `spread`,
        `answer` (token), `sketch` (feature).  On request (`keep`): `sketch_path`, `final_state`, `trajectory`.  Also
        `inputs` and `labels`.

    Raises
    ------
    ValueError
        For arguments of the wrong shape, type or range, naming the argument; and for a system that breaks a rule
        (see `contract.check_system`), naming the rule and the remedy.

    Notes
    -----
    P * B * (D + 1) evaluations without noise, fewer where runs are retired; P * B * 2 D with noise (with sparse
    residuals at depth 40: 1.4 D).  Memory: the batches in progress and, while the ensemble is made, about 60
    bytes for each (puzzle, restart, step) and 4 kB for each (puzzle, restart); the memory of `export` does not
    grow with the number of restarts.

    References
    ----------
    Equilibrium Reasoners, arXiv 2605.21488, sections 3 and 4.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 3), generator=g, dtype=torch.float64))
    >>> ensemble = sample(system, torch.zeros(1, 1, dtype=torch.long), restarts=4, depth=60)
    >>> ensemble.fate.values.tolist()  # 0 is "settled"
    [[0, 0, 0, 0]]
    """
    check_options(work, WorkOptions, sample)
    run = Run.of(
        system, inputs, labels=labels, identifiers=identifiers,
        restarts=restarts, depth=depth, seed=seed, noise=noise, initial=initial,
        keep=keep, oracle=oracle, device=device, dtype=dtype, tolerances=tolerances, first_restart=first_restart,
        residuals=residuals, retire=retire,
    )  # fmt: skip
    return run.sample(**work)
