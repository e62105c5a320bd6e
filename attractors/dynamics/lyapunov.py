"""Lyapunov exponents along trajectories, by QR on k tangent vectors, with intervals from windows and restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from scipy.special import stdtrit
from torch import Tensor

from eqrlab.attractors.dynamics.jacobian import Jacobian, check_differentiable, row_bytes, rows_within
from eqrlab.attractors.dynamics.tangent import (
    RESOLVED,
    advance,
    in_one_pass,
    log_factors,
    one_step,
    triangular,
)
from eqrlab.attractors.ensemble.arguments import require_same_system, with_noise
from eqrlab.attractors.ensemble.options import StateOptions, computing
from eqrlab.attractors.ensemble.states import Points, States, spread, state_axes
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.trends import falls_to_zero
from eqrlab.core import System
from eqrlab.core.progress import shown, tqdm

WINDOWS = 20
ZERO = 1e-10  # a sum of exponents that is no larger is zero to rounding
STRIDE = 8  # most steps between two orthonormalisations
GRADED = 3 / 8  # share of the digits that the factors of such a stretch may differ by
STRIDE_BYTES = 2**26  # and most memory for the activations of one


class LyapunovOptions(StateOptions, total=False):
    """Options of `lyapunov`: saving and resuming, and those of the computation."""

    keep_frame: bool
    resume: xr.Dataset | None


@dataclass(frozen=True)
class Schedule:
    """Steps of a run: those before it, those discarded, and whole windows after them; noise is keyed by the seed."""

    before: int
    discard: int
    steps: int
    window: int
    seed: int
    noisy: bool


def lyapunov(
    system: System,
    inputs: Tensor | np.ndarray,
    starts: States,
    *,
    k: int = 4,
    steps: int = 1000,
    transient: int | None = None,
    noise: float | None = None,
    confidence: float = 0.95,
    **options: Unpack[LyapunovOptions],
) -> xr.Dataset:
    """Compute the k leading Lyapunov exponents of the trajectory that begins at every start.

    Parameters
    ----------
    system, inputs, starts
        As for `spectrum`; starts are (P, M, *state_shape) or an ensemble with final states.
    k
        Exponents wanted.
    steps
        Outer steps over which growth is averaged, at least 20.
    transient
        Steps before that, in which the tangent vectors align and nothing is recorded; None is a tenth of `steps`.
    noise
        Noise amplitude; None is the system's own, 0 none.  The tangent map shares the noise of its trajectory.
    confidence
        Of the intervals.
    keep_frame
        Store the last state and tangent vectors, so that the run can be resumed.
    resume
        An earlier result with keep_frame=True, from which to continue with windows of the same length; `starts`
        are not read; system, k, seed and noise must be the same, and no steps are discarded.
    **options
        `seed` (of the first tangent vectors and of the noise), `batch_size`, `dtype`, `device`, `progress`, see
        `StateOptions`.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, point, eig), natural logarithm per outer step: `lyapunov_exponent` with `_low` and `_high`;
        `window_exponent(puzzle, point, window, eig)`: the same over successive windows of equal length;
        over (puzzle, eig): `puzzle_exponent` with `_low` and `_high`, the mean over the points.  Over (puzzle, point),
        with bounds, too: `exponent_sum`, and `kaplan_yorke`, the dimension: NaN where k exponents do not decide it,
        which all of them do.

    Raises
    ------
    ValueError
        For k or steps out of range, a result that cannot be resumed, and derivatives that cannot be trusted.

    Notes
    -----
    Cost: (steps + transient) * (about 4 + 1.5 k) evaluations per row.  Memory a row: k state vectors and twice the
    saved activations of one step.  Small systems without noise go up to 8 steps between two orthonormalisations, as
    long as the factors of such a stretch differ by less than 3/8 of the digits; the exponents are the same to rounding.
    The interval over time is Student's from 20 batch means: valid once a window is much longer than the correlation
    time, and never narrower than the rounding of a step, 8 epsilon to either side.  Where the windows fall like
    1 / time, as at a marginal point or where shear lets perturbations grow like time, the interval also holds 0.  A sum
    of exponents whose interval holds 0 counts as 0 in the Kaplan-Yorke dimension, whose bounds have all exponents at
    their bounds.  A factor below 8 epsilon of the largest in its step cannot be told from zero and makes its exponent
    -inf.
    Trajectories that diverge give NaN.

    References
    ----------
    G. Benettin et al., Meccanica 15 (1980) 9; J.-P. Eckmann and D. Ruelle, Rev. Mod. Phys. 57 (1985) 617;
    J. L. Kaplan and J. A. Yorke, Lect. Notes Math. 730 (1979) 204.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> logistic = MapSystem(lambda z, x: 4 * z * (1 - z), lambda x, g: torch.rand(len(x), 1, generator=g))
    >>> start = torch.full((1, 1, 1), 0.3, dtype=torch.float64)
    >>> result = lyapunov(logistic, torch.zeros(1, 1, dtype=torch.long), start, k=1, steps=2000)
    >>> bool(abs(result.lyapunov_exponent.item() - 0.6931) < 0.01)
    True
    """
    own, resume = computing(options, lyapunov, LyapunovOptions), options.get("resume")
    system, beta = with_noise(system, noise)
    if resume is not None:
        if "frame" not in resume:
            raise ValueError("resume needs a result made with keep_frame=True")
        starts, transient = resume["last_state"], 0
    points = own.points(system, inputs, starts, finite=resume is None)
    points.require_k(k)
    if steps < WINDOWS or (transient is not None and transient < 0) or not 0 < confidence < 1:
        raise ValueError(
            f"steps must be >= {WINDOWS}, transient >= 0 and confidence in (0, 1), "
            f"got {steps}, {transient} and {confidence}"
        )
    if resume is not None:
        require_same_system(system, resume, "resume is of")
        same = resume.sizes["eig"], int(resume.attrs["seed"]), float(resume.attrs["noise"])
        if same != (k, own.seed, beta):
            raise ValueError("resume has k = {}, seed {} and noise {:g}; use the same".format(*same))
    check_differentiable(points, own.seed)
    discard = steps // 10 if transient is None else int(transient)
    # A resumed run keeps the windows of the first part: an interval needs windows of one length.
    window = steps // WINDOWS if resume is None else int(resume.attrs["window"])
    before = 0 if resume is None else int(resume.attrs["steps"]) + int(resume.attrs["transient"])
    plan = Schedule(before, discard, steps // window * window, window, own.seed, beta > 0)
    frames = None if resume is None else torch.as_tensor(resume["frame"].values).flatten(0, 1).flatten(2)
    # Each row carries k tangent vectors through the step, beside the state and what QR needs.
    size = own.batch_size or rows_within(points, 3 * k + 4, graphs=2)
    means, states, tangents, done = [], [], [], []
    with tqdm(total=steps + discard, unit="step", desc="lyapunov", **shown(own.progress)) as bar:
        for rows in points.batches(size):
            frame = (
                first_frame(points, rows, k, own.seed) if frames is None else frames[rows.cpu()].to(points.z)
            )
            z, frame, logs = _run(points, rows, frame, plan, bar)
            means.append(logs)
            states.append(z.cpu())
            tangents.append(frame.cpu())
            done.append(rows)
    rows = torch.cat(done)
    windows = spread(len(points.z), torch.cat(means).numpy(), rows)
    if resume is not None:
        old = resume["window_exponent"].values
        windows = np.concatenate((old.reshape(len(windows), *old.shape[2:]), windows), axis=1)
    attributes = points.attributes(
        seed=own.seed, steps=int(windows.shape[1] * window), window=window, noise=beta, confidence=confidence,
        transient=discard if resume is None else int(resume.attrs["transient"]),
    )  # fmt: skip
    variables = _summaries(points, windows, confidence)
    if options.get("keep_frame"):
        axes = state_axes(points)
        last = spread(len(points.z), torch.cat(states).numpy(), rows)
        vectors = spread(len(points.z), torch.cat(tangents).numpy(), rows)
        vectors = vectors.reshape(*vectors.shape[:2], *points.z.shape[1:])
        variables["last_state"] = (("puzzle", "point", *axes), points.fold(last), "state after the last step")
        variables["frame"] = (
            ("puzzle", "point", "eig", *axes),
            points.fold(vectors),
            "tangent vectors after the last step",
        )
    return schema.dataset(variables, attributes)


def first_frame(points: Points, rows: Tensor, k: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    block = torch.randn((k, points.size), generator=generator, dtype=torch.float64).to(points.z)
    return triangular(block[None])[0].expand(len(rows), -1, -1)


@torch.no_grad()
def _run(
    points: Points, rows: Tensor, frame: Tensor, plan: Schedule, bar: tqdm
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry states and tangent vectors along; return both at the end and the mean logs (rows, windows, k)."""
    z, x, keys = points.z[rows], points.context(rows), None
    discard, window = plan.discard, plan.window
    if plan.noisy:
        keys = points.row_keys(plan.seed, rows)
    total = torch.zeros(frame.shape[:2], dtype=torch.float64, device=z.device)
    means: list[Tensor] = []
    allowed = -GRADED * float(np.log(torch.finfo(z.dtype).eps))
    small = keys is None and in_one_pass(points.system, frame)
    graphs = 2 * STRIDE * frame.shape[0] * frame.shape[1]
    most = STRIDE if small and graphs * row_bytes(points.system, x, z) <= STRIDE_BYTES else 1
    t, stride, end = 0, 1, discard + plan.steps
    while t < end:
        stop = discard if t < discard else t + window - (t - discard) % window
        stride = min(stride, stop - t)
        if stride == 1:
            jacobian = one_step(points.system, x, z, keys, plan.before + t + 1)
        else:
            jacobian = Jacobian(points.system, x, z, stride)
        reached, block = advance(jacobian, frame)
        block, R = triangular(block)
        logs = log_factors(R)
        apart = _spread(logs)
        if stride > 1 and apart > 2 * allowed:  # the last factors would be rounding: step by step
            stride = 1
            continue
        z, frame, t = reached, block, t + stride
        if t > discard:
            total = total + logs
            if (t - discard) % window == 0:
                means.append(total.cpu() / window)
                total = torch.zeros_like(total)
        bar.update(stride)
        stride = min(most, max(1, int(allowed * stride / max(apart, 1e-6)))) if apart < np.inf else 1
    return z, frame, torch.stack(means, 1)


def _spread(logs: Tensor) -> float:
    """Return the largest difference between log factors (n, k) of a row; rows that are not numbers do not count."""
    apart = logs.amax(1) - logs.amin(1)
    return float(torch.where(logs.isnan().any(1), 0.0, torch.nan_to_num(apart, nan=torch.inf)).amax())


def _summaries(points: Points, windows: np.ndarray, confidence: float) -> dict[str, schema.Variable]:
    """Return exponents with intervals from window means (n, windows, k)."""
    windows = np.where(
        np.isnan(windows).any((1, 2), keepdims=True), np.nan, windows
    )  # a diverged run has no exponents
    rounding = RESOLVED * torch.finfo(points.z.dtype).eps
    center, low, high = _over_time(windows, confidence, rounding)
    each, puzzle = ("puzzle", "point", "eig"), ("puzzle", "eig")
    over = mean_interval(points.fold(center), confidence, rounding)
    over = _with_limit(mean_interval(points.fold(windows), confidence)[0], *over)
    text = "Lyapunov exponent per outer step, natural logarithm"
    variables: dict[str, schema.Variable] = {
        **Interval(center, low, high).each(points.fold).variables("lyapunov_exponent", each, text),
        **Interval(*over).variables("puzzle_exponent", puzzle, f"{text}: mean over the points"),
    }
    four = ("puzzle", "point", "window", "eig")
    variables["window_exponent"] = (four, points.fold(windows), f"{text}: over successive windows")
    order = np.argsort(-center, axis=1)
    with np.errstate(invalid="ignore"):
        sums = np.take_along_axis(windows, order[:, None], 2).cumsum(2)
        total, least, most = _over_time(sums, confidence, rounding)
    variables |= (
        Interval(total[:, -1], least[:, -1], most[:, -1])
        .each(points.fold)
        .variables("exponent_sum", each[:2], "sum of the k exponents")
    )
    dimension = [kaplan_yorke(*row, points.size) for row in zip(center, most >= 0, strict=True)]
    ends = ([kaplan_yorke(row, None, points.size) for row in bound] for bound in (low, high))
    text = "Kaplan-Yorke dimension of the attractor"
    variables |= (
        Interval(dimension, *ends)
        .each(lambda values: points.fold(np.array(values)))
        .variables("kaplan_yorke", each[:2], text)
    )
    return variables


def _over_time(
    windows: np.ndarray, confidence: float, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, low and high (n, k) over windows (n, windows, k)."""
    return _with_limit(windows, *mean_interval(windows, confidence, least))


def _with_limit(
    windows: np.ndarray, mean: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an interval that holds 0, too, where windows (n, windows, k) fall to it like 1 / time."""
    n, count, k = windows.shape
    marginal = falls_to_zero(windows.transpose(0, 2, 1).reshape(n * k, count)).reshape(n, k)
    return mean, np.where(marginal, np.minimum(low, 0), low), np.where(marginal, np.maximum(high, 0), high)


def mean_interval(
    values: np.ndarray, confidence: float, least: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, low and high (n, ...) of Student's interval over values (n, m, ...), NaN left out.

    It reaches at least `least` to either side.
    """
    finite = np.isfinite(values)
    count = (~np.isnan(values)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, np.nansum(values, 1) / count, np.nan)
        centered = np.where(finite, values - mean[:, None], 0.0)
        deviation = np.sqrt((centered**2).sum(1) / np.maximum(count - 1, 1))
        half = (
            stdtrit(np.maximum(count - 1, 1), 0.5 + confidence / 2)
            * deviation
            / np.sqrt(np.maximum(count, 1))
        )
        half = np.where(count > 1, np.maximum(half, least), np.nan)
        same = np.isinf(mean)
        return mean, np.where(same, mean, mean - half), np.where(same, mean, mean + half)


def kaplan_yorke(exponents: np.ndarray, reached: np.ndarray | None = None, size: int | None = None) -> float:
    """Return j + (sum of the first j) / |exponent j + 1|, j the last with a sum >= 0.

    Where no sum is negative it is `size`, the numbers of a state, if all their exponents are given, else NaN: further
    ones decide it.

    Parameters
    ----------
    exponents
        (k,).
    reached
        (k,) bool: which sums of the largest exponents may be 0 or more; None: those that are, to rounding.
    """
    if not len(exponents) or np.isnan(exponents).any():
        return float("nan")
    ordered = np.sort(exponents)[::-1]
    sums = np.cumsum(ordered)
    below = np.flatnonzero(sums < -ZERO if reached is None else ~reached)
    if not len(below):
        return float(len(ordered)) if len(ordered) == size else float("nan")
    j = int(below[0])
    return j + max(float(sums[j - 1] / abs(ordered[j])), 0.0) if j else 0.0
