"""Basins on a plane: where the states of a 2-D slice of state space lead, how fast, and how rough the borders are."""

from __future__ import annotations

import dataclasses
import json
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import (
    identifier_variable,
    identifiers_of,
    require_integers,
    require_same_puzzles,
    tokens_of,
)
from eqrlab.attractors.ensemble.contract import starts_of
from eqrlab.attractors.ensemble.judge import Judge
from eqrlab.attractors.ensemble.options import AnalysisOptions, check_options, part_of
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.ensemble.runs import Runs, join, runs_of
from eqrlab.attractors.fates.fate import Tolerances
from eqrlab.attractors.landscape.identify import identify
from eqrlab.attractors.perturbation.follow import Ends, Follower, FollowOptions
from eqrlab.attractors.perturbation.plane_geometry import (
    Frame,
    SliceOptions,
    cell_centres,
    frame_variables,
    make_frames,
    make_sides,
    with_axes_named,
)
from eqrlab.attractors.perturbation.plane_maps import LABELS, borders, field_of, fractions, maps
from eqrlab.attractors.results import schema
from eqrlab.attractors.statistics.intervals import check_confidence
from eqrlab.core import System
from eqrlab.core.models.system import dtype_name
from eqrlab.core.progress import shown, tqdm

PILOT = 1024  # cells that set the thresholds of a puzzle where no ensemble gives them


class PlaneOptions(SliceOptions, AnalysisOptions, total=False):
    """Options of `plane`: which plane, and how its states are run and judged."""

    initial: Law | None
    tolerances: Tolerances | None


def plane(
    system: System,
    inputs: Tensor | np.ndarray,
    *,
    ensemble: xr.Dataset | None = None,
    jitter: bool = True,
    escape: float = 1e6,
    box: int = 5,
    confidence: float = 0.95,
    **options: Unpack[PlaneOptions],
) -> xr.Dataset:
    """Follow the states of a plane through state space to the attractors where they end.

    Parameters
    ----------
    system, inputs
        The system and its puzzles (P, L); each puzzle has its own plane.
    resolution
        Cells along each side, 101 unless given.
    extent
        Sides of the plane in units of `unit`: half the width, or (left, right, bottom, top).  None: 1.5 for a random
        plane, else 1.5 times as far as the farthest of the given states.
    states
        (P, M, *state_shape), what `at.sample` or `at.fixed_points` stored, or None.  Two or three states: the plane
        that holds them, centred at their mean; where fewer directions than two result, random ones complete it.  One
        state: a random plane, or that of `directions`, around it.  None: the plane through the origin and two
        restarts; for states of two numbers the whole state space, with its own axes.
    directions
        (P, 2, *state_shape) that span the plane around one state, for example leading eigenvectors; they are made
        orthonormal.
    unit
        Length of 1 on the axes; None is the root mean square norm of the given states or of the restarts, and 1 for
        states of two numbers.
    labels, oracle, initial, tolerances, batch_size, dtype, device, progress
        As for `sample`.
    ensemble
        From `sample`, of the same puzzles: attractors then have the numbers of `basins(ensemble)` (attractors that it
        has not seen follow), and its threshold of settling is used.
    jitter
        Follow a uniformly random state of each cell instead of its centre.  Only then do fractions, entropies and the
        exponent have intervals.
    depth
        Largest number of outer steps of a cell; default 64.
    seed
        Randomness (plane, jitter, noise) is keyed by (seed, input tokens).
    noise
        0 unless given: the deterministic map; a number or None (the system's own): all cells meet the same noise.
    escape
        A state beyond this many times the largest norm on the plane has diverged.
    box
        Cells along a side of the boxes of the basin entropy.

    Returns
    -------
    xarray.Dataset
        Over (puzzle, v, u), the second axis first: `attractor_id` (-1 none), `fate`, `settling_step` (-1 never),
        `answer_settled`, `answer_id` (number of the answer on the plane, the most frequent first), `correct` where
        labels or an oracle are given, `steps` spent.  `fraction(puzzle, attractor)` of the plane, `fraction_none`,
        `fraction_correct`, each with `_low` and `_high`; `attractor_correct`.  Over (puzzle, label), for borders
        between attractors and between answers: `basin_entropy`, `boundary_entropy`, `uncertainty_exponent`, with
        `_low` and `_high`, `boundary_dimension`, `boundary_share`; `uncertain(puzzle, label, epsilon)`.
        `mark_u`, `mark_v` (puzzle, point): the given states; `unit(puzzle)`; `answer(puzzle, answer_number, token)`.

    Raises
    ------
    ValueError
        For states, directions and sides that make no plane, and for labels or an ensemble of other puzzles.

    Notes
    -----
    Cost: at most resolution^2 * depth steps per puzzle; cells whose fate is decided (see `follow.Follower`) leave the
    batch.  Memory: one batch, and about 500 bytes per cell.

    Centres of grid cells are not independent samples of the plane.  Uniformly random states, one in each cell,
    are a stratified sample: independent, unbiased, and with tails no wider than those of the binomial
    (Hoeffding 1956), so that the Clopper-Pearson interval keeps its confidence.  A fraction is a share of this
    plane's area, neither a mass under a restart law nor a volume of state space.  The other intervals resample
    boxes (entropies) and tiles (exponent) of the plane: they only say how well this plane at this resolution
    determines the number.

    Cells of fate diverged or nonfinite count as one place, other cells without an attractor as another.

    References
    ----------
    Daza, Wagemakers, Georgeot, Guery-Odelin & Sanjuan 2016, Sci. Rep. 6, 31416 (basin entropy); Grebogi, McDonald,
    Ott & Yorke 1983, Phys. Lett. A 99, 415 (uncertainty exponent); Hoeffding 1956, Ann. Math. Stat. 27, 713.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: torch.tanh(2 * z), lambda x, g: torch.randn(len(x), 2, generator=g).double())
    >>> result = plane(system, torch.zeros(1, 1, dtype=torch.long), resolution=20, extent=1)
    >>> result.fraction.values  # four attractors; no cell lies across an axis
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    check_options(options, PlaneOptions, plane)
    resolution, depth, seed = options.get("resolution", 101), options.get("depth", 64), options.get("seed", 0)
    unit, labels = options.get("unit"), options.get("labels")
    tokens = tokens_of(inputs, "inputs")
    require_integers(2, resolution=resolution, box=box)
    check_confidence(confidence)
    if unit is not None and not (np.isfinite(unit) and unit > 0):
        raise ValueError(f"unit must be a finite number > 0, got {unit}")
    if not escape > 1:
        raise ValueError(f"escape must be > 1, got {escape}")
    truth = None if labels is None else tokens_of(labels, "labels").numpy()
    if truth is not None and len(truth) != len(tokens):
        raise ValueError(f"labels must have a row for each of the {len(tokens)} puzzles, got {len(truth)}")
    judge = Judge(truth, options.get("oracle"))
    alike = judge if ensemble is None else Judge.of_ensemble(ensemble)  # cells are compared with its runs
    known = identifiers_of(options.get("identifiers"), len(tokens))
    if ensemble is not None:
        known = require_same_puzzles(ensemble, tokens, known)
    follow: FollowOptions = {**part_of(options, FollowOptions), "identifiers": known}
    follower = Follower(system, inputs, depth=depth, judge=alike, **follow)
    frames, shape = make_frames(follower, part_of(options, SliceOptions), options.get("initial"))
    sides = make_sides(options.get("extent"), frames)
    # A run has escaped when it is well outside of all states that the plane itself holds.
    corner = max(f.unit * max(map(abs, sides)) * 2**0.5 + float(f.centre.norm()) for f in frames)
    follower.bound = escape * corner
    right = lambda ends, puzzle: _right(judge, tokens.numpy(), ends, puzzle)
    fields = []
    seen = None if ensemble is None else runs_of(ensemble)
    if ensemble is not None and "settled_below" in (
        limits := json.loads(ensemble.attrs.get("tolerances", "{}"))
    ):
        follower.hold(float(limits["settled_below"]))
    given, dtype = follower.tolerances, dtype_name(frames[0].centre.dtype)
    with tqdm(total=len(tokens) * resolution**2, unit="cell", **shown(options.get("progress", False))) as bar:
        for p, frame in enumerate(frames):
            at, order = _cells(resolution, sides, jitter, follower.keys[p])
            # The cells come in random order, so that the first ones stand for all when the band is fixed.
            pilot = _states(frame, at[order[:PILOT]], p, shape)
            if ensemble is None:
                follower.tolerances = given
                follower.fix_band(*pilot, right)
            elif follower.noise:  # the ensemble knows the threshold, not the noise of this amplitude
                follower.measure_noise(*pilot)
            ends = _follow(follower, frame, at[order], p, shape, bar).take(np.argsort(order))
            number = _numbers(ends, None if seen is None else seen[p])
            fields.append(field_of(ends, number, right(ends, np.full(len(order), p)), resolution))
    cell = (sides[1] - sides[0]) / resolution
    variables = maps(fields, judge.known) | fractions(fields, judge.known, jitter, confidence)
    variables |= borders(fields, box, jitter, confidence, seed, cell)
    variables |= {
        **frame_variables(frames),
        "inputs": (("puzzle", "input_token"), tokens.numpy().astype(np.int32), "puzzle"),
        **identifier_variable(known),
    }
    attributes = {
        **schema.provenance(follower.system), **starts_of(follower.system, options.get("initial")),
        "seed": seed, "depth": depth, "noise": follower.noise, "resolution": resolution, "extent": list(sides),
        "jitter": jitter, "box": box, "confidence": confidence, "evaluations": follower.evaluations,
        "dtype": dtype, "device": str(follower.device), "escape": escape, "interval": INTERVAL[jitter],
        "oracle": judge.name, "tolerances": dataclasses.asdict(given),
    }  # fmt: skip
    u, v = cell_centres(sides, resolution)
    coordinates = {"u": u, "v": v, "label": np.array(LABELS)}
    return with_axes_named(schema.dataset(variables, attributes, coordinates, {"fate": schema.FATES}))


INTERVAL = {
    True: "fractions: Clopper-Pearson, conservative for one random state in each cell; entropies and exponent: boxes "
    "and tiles of the plane drawn with replacement",
    False: "none: the centres of grid cells are no random sample; jitter=True gives intervals",
}


def _right(judge: Judge, inputs: np.ndarray, ends: Ends, puzzle: np.ndarray) -> np.ndarray:
    """Return which ends (n,) are right; each different answer of a puzzle is judged once."""
    if not judge.known:
        return np.zeros(len(ends.code), bool)
    keys = np.stack((puzzle, ends.code), 1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    which = puzzle[first]
    found, _ = judge.of(which)(inputs[which], ends.answer[first])
    return found[inverse.reshape(-1)]


def _cells(n: int, sides: tuple[float, ...], jitter: bool, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates (n^2, 2) followed in the cells, row by row, and a random order of the cells."""
    rng = np.random.default_rng(key & (2**63 - 1))
    within = rng.random((n, n, 2)) if jitter else np.full((n, n, 2), 0.5)
    place = within + np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1)
    low, wide = np.array([sides[0], sides[2]]), np.array([sides[1] - sides[0], sides[3] - sides[2]])
    return (low + wide * place / n).reshape(-1, 2), rng.permutation(n * n)


def _states(frame: Frame, at: np.ndarray, puzzle: int, shape: tuple[int, ...]) -> tuple[Tensor, np.ndarray]:
    """Return the states at coordinates (n, 2) of a plane, and the number of their puzzle (n,)."""
    return frame.states(torch.as_tensor(at)).view(-1, *shape), np.full(len(at), puzzle)


def _follow(
    follower: Follower, frame: Frame, at: np.ndarray, puzzle: int, shape: tuple[int, ...], bar: tqdm
) -> Ends:
    """Follow the cells of one puzzle, a batch at a time."""
    size, parts = follower.rows_at_once(frame.centre.numel()) * torch.get_num_threads(), []
    for start in range(0, len(at), size):
        z, puzzles = _states(frame, at[start : start + size], puzzle, shape)
        parts.append(follower(z, puzzles))
        bar.update(len(z))
    return Ends.join(parts)


def _numbers(ends: Ends, seen: Runs | None) -> np.ndarray:
    """Return the attractor number of each row, -1: none; runs of an ensemble keep theirs, further ones follow."""
    if seen is None:
        return identify(ends.runs()).label
    theirs = identify(seen).label
    first = dataclasses.replace(seen, state=np.zeros((len(seen), 0)), exact=np.zeros(len(seen), bool))
    label = identify(join(first, ends.runs(int(seen.restart.max()) + 1))).label
    mine, rest = np.split(label, [len(theirs)])
    number = np.full(int(label.max()) + 2, -1)  # the last entry: none
    following = int(theirs.max()) + 1
    for cluster in range(len(number) - 1):
        known = theirs[(mine == cluster) & (theirs >= 0)]
        if len(known):
            number[cluster] = np.bincount(known).argmax()
        elif (rest == cluster).any():
            number[cluster] = following
            following += 1
    return number[rest]
