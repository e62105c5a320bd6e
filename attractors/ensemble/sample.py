"""Trajectory ensembles: many restarts of every puzzle, run to a depth, with residuals, answers and fates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.batches import one_thread_a_batch as one_thread_a_batch
from eqrlab.attractors.ensemble.batches import run_in_batches
from eqrlab.attractors.ensemble.contract import as_starts, check_system, require_system
from eqrlab.attractors.ensemble.fate import Tolerances, ring_length
from eqrlab.attractors.ensemble.judge import Oracle
from eqrlab.attractors.ensemble.recipe import Law, Recipe
from eqrlab.attractors.ensemble.records import digest
from eqrlab.attractors.ensemble.records import noise_size as noise_size
from eqrlab.attractors.ensemble.to_dataset import assemble
from eqrlab.core import System
from eqrlab.core.models.reasoner import Reasoner

KEEP = ("summary", "path", "final_state", "trajectory", "logit_delta")
FEATURES = 64
PATH_FEATURES = 16
TRACE = 8  # numbers of a state that are followed through all steps, to find periods


def sample(
    system: System,
    inputs: Tensor | np.ndarray,
    *,
    labels: Tensor | np.ndarray | None = None,
    restarts: int = 64,
    depth: int = 64,
    seed: int = 0,
    noise: float | None = None,
    initial: Tensor | Law | None = None,
    batch_size: int | None = None,
    keep: Sequence[str] = ("summary",),
    oracle: Oracle | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    tolerances: Tolerances | None = None,
    first_restart: int = 0,
    progress: bool | Callable[[int, int], None] = False,
) -> xr.Dataset:
    """Run `restarts` trajectories of `depth` outer steps for every puzzle.

    Parameters
    ----------
    system
        Any `eqrlab.core.System`.
    inputs
        Puzzles (P, L), integer tokens.
    labels
        Solutions (P, L); cells with label 0 do not count.  Without labels and oracle nothing is known of correctness.
    restarts, depth
        Breadth B and depth D, both >= 1.
    seed
        Randomness is keyed by (seed, input tokens, restart): a restart is the same alone, in company and in any order.
    noise
        Noise amplitude beta in every level call; None: the system's own test-time noise, 0: none.
    initial
        Starts: a tensor (P, B, *state_shape), a callable `(x, generator) -> z`, or None for the system's restart law.
    batch_size
        Rows run at once; None chooses it from the size of a state.  Results do not depend on it, to rounding.
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
        Number of the first restart: with it an ensemble is continued, since restart r is the same in any ensemble.
    progress
        True shows a bar on a terminal; a callable gets (row-steps done, all).

    Returns
    -------
    xarray.Dataset
        Over (puzzle, restart, step): `residual` = ||f(z; x) - z||, noise off, over the whole state after `step` steps,
        `relative_residual`, `update`, `correct`, `token_accuracy`, `answer_id` (equal for equal answers of a puzzle),
        `halt_logit` where the system has one.  Over (puzzle, restart): `fate` and its two axes
        `state_fate`, `answer_fate` (see `attractors.fate`); `period`, `answer_settled`, `settling_step`, `spread`,
        `answer` (token), `sketch` (feature).  What was asked to be kept: `sketch_path`, `final_state`, `trajectory`.
        `inputs`, `labels`.

    Raises
    ------
    ValueError
        For arguments of the wrong shape, type or range, naming the argument; and for a system that breaks a promise
        (see `contract.check_system`), naming the promise and how to mend it.

    Notes
    -----
    P * B * (D + 1) evaluations without noise, P * B * 2 D with noise.  Memory: the batches under way, and while the
    ensemble is made about 60 bytes for each (puzzle, restart, step) and 4 kB for each (puzzle, restart); `export`
    needs no more for more restarts.

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
    recipe, beta, limits = prepare(
        system, inputs, labels=labels, restarts=restarts, depth=depth, seed=seed, noise=noise, initial=initial,
        batch_size=batch_size, keep=keep, oracle=oracle, device=device, dtype=dtype, tolerances=tolerances,
        first_restart=first_restart,
    )  # fmt: skip
    rows = np.arange(len(recipe.inputs) * recipe.restarts)
    shorten = lambda records: digest(records, recipe.depth, limits)
    records = run_in_batches(recipe, rows, batch_size, progress, shorten)
    return assemble(recipe, records, beta, limits)


def prepare(
    system: System,
    inputs: Tensor | np.ndarray,
    *,
    labels: Tensor | np.ndarray | None = None,
    restarts: int = 64,
    depth: int = 64,
    seed: int = 0,
    noise: float | None = None,
    initial: Tensor | Law | None = None,
    batch_size: int | None = None,
    keep: Sequence[str] = ("summary",),
    oracle: Oracle | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    tolerances: Tolerances | None = None,
    first_restart: int = 0,
) -> tuple[Recipe, float, Tolerances]:
    """Check the arguments of `sample` and return what to run, the noise amplitude and the thresholds.

    Raises
    ------
    ValueError
        See `sample`.
    """
    require_system(system)
    tokens = tokens_of(inputs, "inputs")
    solutions = None if labels is None else tokens_of(labels, "labels").numpy()
    initial = as_starts(initial)
    if solutions is not None and len(solutions) != len(tokens):
        raise ValueError(
            f"labels must have a row for each of the {len(tokens)} puzzles, got {len(solutions)}"
        )
    for name, value in {
        "restarts": restarts,
        "depth": depth,
        "batch_size": 1 if batch_size is None else batch_size,
    }.items():
        if int(value) != value or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value}")
    if int(first_restart) != first_restart or first_restart < 0:
        raise ValueError(f"first_restart must be an integer >= 0, got {first_restart}")
    unknown = sorted(set(keep) - set(KEEP))
    if unknown:
        raise ValueError(f"keep {unknown[0]!r} unknown; choose from {', '.join(KEEP)}")
    if "logit_delta" in keep and getattr(system, "logits", None) is None:
        raise ValueError("keep 'logit_delta' needs a system with a method logits(z, x), this one has none")
    if isinstance(initial, Tensor) and tuple(initial.shape[:2]) != (len(tokens), restarts):
        raise ValueError(
            f"initial must begin with (puzzle, restart) = {len(tokens), restarts}, got {tuple(initial.shape[:2])}"
        )
    system, beta = with_noise(system, noise)
    place = torch.device(device) if device is not None else torch.device(getattr(system, "device", "cpu"))
    if isinstance(system, torch.nn.Module):
        system = system.to(place)
    precision = dtype_of(dtype)
    if precision is not None and isinstance(system, Reasoner):
        system.require_finite_in(precision)  # layers cast their weights to the dtype of the state
    limits = tolerances or Tolerances()
    check_system(
        system, tokens, initial=initial, restarts=int(restarts), first_restart=int(first_restart), seed=int(seed),
        noisy=beta > 0, device=place, dtype=precision,
    )  # fmt: skip
    recipe = Recipe(
        system, tokens, solutions, oracle, int(restarts), int(depth), int(seed), beta > 0, initial,
        ring_length(depth), FEATURES, PATH_FEATURES if "path" in keep else 0, "final_state" in keep,
        "trajectory" in keep, place, precision, int(first_restart), logit_delta="logit_delta" in keep,
        trace=TRACE,
    )  # fmt: skip
    return recipe, beta, limits


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a floating dtype from its name; None stays.

    Raises
    ------
    ValueError
        For a name that is no floating dtype.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype {dtype!r} unknown; choose from float32, float64, bfloat16, float16")
    return found


def with_noise(system: System, noise: float | None) -> tuple[System, float]:
    """Return the system with the noise amplitude asked for (None: its own), and that amplitude.

    Raises
    ------
    ValueError
        For what is no system, a negative amplitude, or a system that has no `with_noise` where another amplitude than
        its own is wanted.
    """
    require_system(system)
    own = float(getattr(system, "noise_scale", 0.0))
    if noise is None or noise == own:
        return system, own
    if not noise >= 0:
        raise ValueError(f"noise must be >= 0, got {noise}")
    change = getattr(system, "with_noise", None)
    if change is None and noise > 0:
        raise ValueError("this system has no with_noise method; wrap it in MapSystem(..., noise_scale=...)")
    return (system if change is None else change(noise)), float(noise)


def tokens_of(values: Tensor | np.ndarray, name: str) -> Tensor:
    """Return token rows (P, L) as int64 on the CPU.

    Raises
    ------
    ValueError
        For values of another kind or shape, or without rows or tokens, naming the argument.
    """
    if not isinstance(values, (Tensor, np.ndarray, xr.DataArray, list, tuple)):
        remedy = f": pass its .{name}" if hasattr(values, name) else ""
        raise ValueError(
            f"{name} must be integer tokens (puzzle, token), got a {type(values).__name__}{remedy}"
        )
    tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.ascontiguousarray(values))
    if tensor.ndim != 2 or tensor.is_floating_point() or not len(tensor) or not tensor.shape[1]:
        raise ValueError(
            f"{name} must be integer tokens (puzzle, token), got {tuple(tensor.shape)} of {tensor.dtype}"
        )
    return tensor.cpu().long()
