"""The data of the runs of one puzzle from which attractors and masses are found; rounds of restarts can be joined."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import xarray as xr

from eqrlab.attractors.ensemble.judge import Judge
from eqrlab.attractors.ensemble.schedule import measured_of
from eqrlab.attractors.fates.clouds import recurs
from eqrlab.attractors.fates.fate import CODE, Tolerances
from eqrlab.attractors.fates.orbits import RATE_CAP
from eqrlab.attractors.results.drawn import drawn_of
from eqrlab.attractors.statistics.trends import decay_rate, filled, tail

RESOLUTION = {"float64": 1e-6}  # relative distance up to which two exact states are one attractor
COARSE_RESOLUTION = 1e-3  # the same in lower precision
STAYED = 8  # steps for which a run must have been where it ended, to count as one that came there
LEFT = 0.1  # residuals that differ more than this share from those a period later: not yet on the cycle


@dataclass(frozen=True)
class Runs:
    """Runs of one puzzle, leading axis n.

    Attributes
    ----------
    restart
        Numbers of the restarts.
    fate, period, settling_step
        As in the ensemble.
    residual
        Final relative residual.
    scale
        Unit of distances.
    error
        Estimated distance of the long-run state from its attractor, relative to the scale.
    resolution
        Relative distance up to which two exact states count as one, by the precision of the run.
    place
        Sketch (n, F) of the long-run state.
    answer, code
        (n, L), and a number (n,) that is equal if answers mean the same, see `Judge.codes`.
    correct, partly
        Whether the answer is right at the last step, for a periodic run throughout its last period; and whether it is
        right in a part of that period only.
    state
        Final state (n, d) where kept, else (n, 0).
    exact
        Whether `place` is the sketch of `state`: settled without noise.
    orbit
        (n, K, G) states of the cycle of a periodic run, or states of a moving run sampled over its later half; NaN
        beyond the last.  Without any, a periodic run is represented by its place.
    recurs
        Whether the sampled states show a set to which the run keeps coming back.
    steady
        Whether the answer stays the same throughout the later half.
    before, late
        Median residual over the first half, and whether the run reached the region where it ended only in the later
        half.
    """

    restart: np.ndarray
    fate: np.ndarray
    period: np.ndarray
    settling_step: np.ndarray
    residual: np.ndarray
    scale: np.ndarray
    error: np.ndarray
    resolution: np.ndarray
    place: np.ndarray
    answer: np.ndarray
    code: np.ndarray
    correct: np.ndarray
    state: np.ndarray
    exact: np.ndarray
    orbit: np.ndarray = None  # type: ignore[assignment]
    recurs: np.ndarray = None  # type: ignore[assignment]
    steady: np.ndarray = None  # type: ignore[assignment]
    before: np.ndarray = None  # type: ignore[assignment]
    late: np.ndarray = None  # type: ignore[assignment]
    partly: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        n = len(self.restart)
        unknown = {
            "orbit": np.full((n, 0, 1), np.nan), "recurs": np.zeros(n, bool), "steady": np.ones(n, bool),
            "before": np.zeros(n), "late": np.zeros(n, bool), "partly": np.zeros(n, bool),
        }  # fmt: skip
        for name, values in unknown.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.restart)

    def take(self, rows: np.ndarray) -> Runs:
        """Return some rows."""
        return Runs(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def attracted(self) -> np.ndarray:
        """Runs that ended at an attractor according to their fate, (n,) bool: settled, periodic or recurrent."""
        return np.isin(self.fate, [CODE[f] for f in ("settled", "periodic", "recurrent")])


def join(first: Runs, second: Runs) -> Runs:
    """Return the runs of two rounds of one puzzle together."""
    names = [f.name for f in fields(Runs)]
    shape = np.maximum(first.orbit.shape[1:], second.orbit.shape[1:])
    first, second = (replace(r, orbit=widened(r.orbit, *shape)) for r in (first, second))
    return Runs(**{n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in names})


def widened(orbit: np.ndarray, points: int, coordinates: int) -> np.ndarray:
    """Return orbits (n, K, G) extended to this many points and coordinates, padded with NaN."""
    if orbit.shape[1:] == (points, coordinates):
        return orbit
    wide = np.full((len(orbit), points, coordinates), np.nan)
    wide[:, : orbit.shape[1], : orbit.shape[2]] = orbit
    return wide


def state_error(ensemble: xr.Dataset) -> np.ndarray:
    """Estimate how far each long-run state is from its attractor, relative to its scale, (puzzle, restart).

    For a settled run it is the distance that a geometric decay still has to go; for a periodic run the distance
    between states one period apart (see `orbits.outlines`); for a recurrent or noisy run its spread.
    """
    with np.errstate(invalid="ignore"):  # a nonfinite run has an infinite scale
        relative = ensemble.residual.values.astype(float) / ensemble.scale.values[:, :, None]
    puzzles, restarts, _ = relative.shape
    k = tail(measured_of(ensemble))
    # The decay of a run that was retired shows in the steps it made, not in the last value repeated.
    made = steps_made(ensemble)[:, :, None]
    index = np.broadcast_to(np.clip(made - k + np.arange(k), 0, None), (puzzles, restarts, k))
    recent = np.nan_to_num(np.take_along_axis(relative, index, 2), nan=1.0, posinf=1.0).reshape(-1, k)
    rate = np.clip(decay_rate(recent) if k > 1 else np.zeros(len(recent)), 0, RATE_CAP)
    left = np.nan_to_num(relative[:, :, -1], nan=1.0, posinf=1.0) / (1 - rate.reshape(puzzles, restarts))
    periodic = ensemble.fate.values == CODE["periodic"]
    if "cycle_error" in ensemble:
        left = np.where(periodic, ensemble.cycle_error.values.astype(float), left)
    else:  # of an older archive: a period is recognised to this share of a step
        left = np.where(periodic, Tolerances.recurrence * np.nan_to_num(relative[:, :, -1]), left)
    extended = (ensemble.fate.values == CODE["recurrent"]) | (is_noisy(ensemble) & ~periodic)
    epsilon = torch.finfo(getattr(torch, ensemble.attrs["dtype"])).eps
    return np.maximum(np.where(extended, ensemble.spread.values.astype(float), left), 4 * epsilon)


def steps_made(ensemble: xr.Dataset) -> np.ndarray:
    """Return how many steps each run made, (puzzle, restart): all, or those before it was retired."""
    depth = ensemble.sizes["step"]
    if "retired_step" not in ensemble:
        return np.full(ensemble.fate.shape, depth)
    step = ensemble.retired_step.values
    return np.where(step < 0, depth, step)


def is_noisy(ensemble: xr.Dataset) -> bool:
    """Return whether the runs of an ensemble were driven by noise."""
    return float(ensemble.attrs.get("noise", 0)) > 0


def runs_of(ensemble: xr.Dataset) -> list[Runs]:
    """Return the runs of each puzzle of an ensemble.

    Raises
    ------
    ValueError
        If some of its steps were left out: fates and states are those of the whole runs.
    """
    depth = ensemble.sizes["step"]
    if depth != ensemble.attrs.get("depth", depth):
        raise ValueError(
            f"the ensemble has {depth} of its {ensemble.attrs['depth']} steps, and the fates of the whole runs: "
            "take all steps, or sample with that depth"
        )
    correct, partly = _right_at_the_end(ensemble)
    values = {
        "fate": ensemble.fate.values,
        "period": ensemble.period.values,
        "settling_step": ensemble.settling_step.values,
        "residual": ensemble.relative_residual.values[:, :, -1].astype(float),
        "scale": ensemble.scale.values.astype(float),
        "error": state_error(ensemble),
        "place": ensemble.sketch.values.astype(float),
        "answer": ensemble.answer.values,
        "code": _codes(ensemble),
        "correct": correct,
        "partly": partly,
        "exact": (ensemble.fate.values == CODE["settled"]) & (not is_noisy(ensemble)),
    }
    shape = ensemble.fate.shape
    values["resolution"] = np.full(shape, RESOLUTION.get(ensemble.attrs["dtype"], COARSE_RESOLUTION))
    kept = "final_state" in ensemble
    values["state"] = ensemble.final_state.values.reshape(*shape, -1) if kept else np.zeros((*shape, 0))
    if "orbit" in ensemble:
        values["orbit"] = ensemble.orbit.values.astype(float)
        values["recurs"] = _recurs(values)
        values["steady"] = ensemble.answer_settled.values <= ensemble.attrs["depth"] // 2 + 1
        values["before"], values["late"] = _arrivals(ensemble)
    restart = ensemble.restart.values
    drawn = drawn_of(ensemble)
    return [
        Runs(restart=restart[mine], **{n: v[p][mine] for n, v in values.items()})
        for p, mine in enumerate(drawn)
    ]


def _codes(ensemble: xr.Dataset) -> np.ndarray:
    """Return a number for each final answer, (puzzle, restart), equal if answers mean the same, also across rounds."""
    answer = ensemble.answer.values
    puzzle = np.arange(len(answer)).repeat(answer.shape[1])
    codes = Judge.of_ensemble(ensemble).of(puzzle).codes(answer.reshape(-1, answer.shape[2]))
    return codes.reshape(answer.shape[:2])


def tolerances_of(ensemble: xr.Dataset) -> Tolerances:
    """Return the thresholds by which the fates of an ensemble were judged, as recorded in it."""
    stored, names = json.loads(ensemble.attrs["tolerances"]), {f.name for f in fields(Tolerances)}
    return Tolerances(**{k: v for k, v in stored.items() if k in names})


def settled_band(ensemble: xr.Dataset) -> float:
    """Return the relative residual below which the runs of an ensemble count as settled, as recorded in it."""
    return float(json.loads(ensemble.attrs["tolerances"])["settled_below"])


def _right_at_the_end(ensemble: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return which runs, (puzzle, restart), are right: at the last step, periodic ones over their last period.

    The second array: periodic runs that are right in a part of that period only.
    """
    if "correct" not in ensemble:
        return np.zeros(ensemble.fate.shape, bool), np.zeros(ensemble.fate.shape, bool)
    correct = ensemble.correct.values
    always, ever = correct[:, :, -1].copy(), correct[:, :, -1].copy()
    for p, r in zip(*np.nonzero(ensemble.fate.values == CODE["periodic"]), strict=True):
        turn = correct[p, r, -int(ensemble.period.values[p, r]) :]
        always[p, r], ever[p, r] = turn.all(), turn.any()
    return always, ever & ~always


def _recurs(values: dict[str, np.ndarray]) -> np.ndarray:
    """Return which runs, (puzzle, restart), keep moving over a set that their sampled states show."""
    moving = np.isin(values["fate"], [CODE[f] for f in ("recurrent", "wandering")])
    found = np.zeros(moving.shape, bool)
    for p, r in zip(*np.nonzero(moving), strict=True):
        found[p, r] = recurs(values["orbit"][p, r], values["resolution"][p, r] * values["scale"][p, r])
    return found


def _arrivals(ensemble: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the median residual over the first half, and which runs were elsewhere until the later half.

    A settled run counts as elsewhere while its residual is at least half of that median; a run that decays evenly
    falls below it within the first half.  A periodic run counts as elsewhere while its residuals do not repeat, and a
    diverged run while its residuals are as before.
    """
    residual, fate = (
        filled(ensemble.residual.values.astype(float), measured_of(ensemble)),
        ensemble.fate.values,
    )
    depth = residual.shape[2]
    half = max(1, depth // 2)
    with np.errstate(invalid="ignore"):
        before = np.median(residual[:, :, :half], axis=2)
        level = before[:, :, None]
        lost = np.isin(fate, [CODE["diverged"], CODE["nonfinite"]])[:, :, None]
        away = (residual >= level / 2) & (~lost | (residual <= 10 * level))
    for p, r in zip(*np.nonzero(fate == CODE["periodic"]), strict=True):
        period = int(ensemble.period.values[p, r])
        change = np.abs(residual[p, r, period:] - residual[p, r, :-period])
        away[p, r] = False
        away[p, r, : depth - period] = change > LEFT * residual[p, r, -period:].max()
    last = np.where(away, np.arange(1, depth + 1), 0).max(2)
    ended = np.isin(fate, [CODE[f] for f in ("settled", "periodic", "diverged", "nonfinite")])
    return before, ended & (last > half) & (last <= depth - STAYED)
