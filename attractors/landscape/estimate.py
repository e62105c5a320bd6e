"""Basin masses to a requested precision: restarts are drawn in rounds, for the puzzles that still need them."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

import numpy as np
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import require_integers
from eqrlab.attractors.ensemble.contract import law_of
from eqrlab.attractors.ensemble.options import AnalysisOptions, RunOptions, check_options, part_of
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.ensemble.runs import Runs, join, runs_of, settled_band
from eqrlab.attractors.fates.fate import Tolerances
from eqrlab.attractors.landscape.basins import tabulate
from eqrlab.attractors.landscape.identify import Clusters, identify
from eqrlab.attractors.results import schema
from eqrlab.attractors.statistics.intervals import (
    INTERVALS,
    check_confidence,
    mass_above,
    proportion_interval,
)
from eqrlab.core import System
from eqrlab.core.progress import shown, tqdm

STOPS = ("precise", "decided", "max_restarts", "ambiguous")
DECISIONS = ("undecided", "below", "above")
# Of the intervals for a fixed number of restarts, the one that keeps its coverage when sampling stops at a width.
STOPPING_INTERVAL = "clopper-pearson"
STEP = 16  # fewest restarts a round draws for a puzzle


@dataclass(frozen=True)
class Rule:
    """The rule by which a puzzle has enough restarts; its values are checked on construction."""

    half_width: float
    confidence: float
    max_restarts: int
    above: float | None
    method: str

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if not 0 < self.half_width < 0.5:
            raise ValueError(f"half_width must be between 0 and 0.5, got {self.half_width}")
        require_integers(max_restarts=self.max_restarts)
        if self.above is not None and not 0 < self.above < 1:
            raise ValueError(f"above must be between 0 and 1, got {self.above}")
        if self.method not in INTERVALS:
            raise ValueError(f"interval method {self.method!r} unknown; choose from {', '.join(INTERVALS)}")


class Review(NamedTuple):
    """Result of a review of one puzzle: reason to stop (None: continue), widest half-width, restarts to draw."""

    stop: str | None
    half_width: float
    more: int


class EstimateOptions(AnalysisOptions, total=False):
    """Options of `estimate_basins`: how restarts are drawn, run and judged."""

    first: int
    recheck: bool
    initial: Law | None
    tolerances: Tolerances | None


def estimate_basins(
    system: System,
    inputs: Tensor | np.ndarray,
    *,
    half_width: float = 0.05,
    confidence: float = 0.95,
    max_restarts: int = 4096,
    above: float | None = None,
    method: str | None = None,
    **options: Unpack[EstimateOptions],
) -> xr.Dataset:
    """Estimate the basin masses of every puzzle, drawing just enough restarts.

    Parameters
    ----------
    system, inputs, labels, identifiers, depth, seed, noise, initial, batch_size, oracle, device, dtype, tolerances
        As in `sample`; `initial` is None or a callable, since given starts cannot be continued.
    half_width
        A puzzle is done when no interval of a mass (of an attractor, none, correct, spurious) is wider than twice
        this.
    confidence
        Of the intervals.
    max_restarts
        Largest number of restarts of a puzzle.
    above
        Stop instead as soon as it is certain whether the correct mass is above this; needs labels or an oracle.
    first
        Restarts of every puzzle in the first round; default 32.
    method
        Of the intervals; None: "clopper-pearson", with `above` "sequence", which is valid for any stopping rule.
    recheck
        Keep final states, so that borderline pairs of large states are compared in full.  Needs the memory of one
        state per restart.
    progress
        True shows a bar on a terminal; a callable receives (puzzles done, all).

    Returns
    -------
    xarray.Dataset
        As `basins`, and over puzzle: `restarts_used`, `half_width` (of the widest interval), `stop` with flags precise,
        decided, max_restarts, ambiguous (only doubtful runs keep the intervals wide: raise the depth), and
        with `above`: `correct_mass_above` with flags undecided, below, above.  The attribute `fixed_restarts` says how
        many restarts of every puzzle would give this precision for any mass.

    Raises
    ------
    ValueError
        For arguments out of range, given starts, or `above` without labels and oracle.

    Notes
    -----
    Restart r of a puzzle is that of `sample` with the same seed.  The first round fixes what counts as settled,
    so that its restarts keep their fates.

    Each round predicts from the widest interval how many restarts a puzzle needs, and at most doubles them.
    Stopping at a width of Clopper-Pearson intervals keeps their coverage: at a nominal 95 % it is 94.2 % at the
    worst mass, and over 95 % on average over masses (exact sums over all ways to stop, half-widths .02 to .2;
    mid-p falls to 89 %). `method="sequence"` covers under any stopping rule, at more than three times the
    restarts.  The unseen mass is only bounded: with many small basins, the masses are precise long before all
    basins have been seen.

    References
    ----------
    Frey 2010, "Fixed-width sequential confidence intervals for a proportion".

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(
    ...     lambda z, x: torch.tanh(2 * z), lambda x, g: torch.randn((len(x), 1), generator=g, dtype=torch.float64)
    ... )
    >>> found = estimate_basins(system, torch.zeros(1, 1, dtype=torch.long), half_width=0.1, depth=40)
    >>> int(found.attractors[0]), bool(found.half_width[0] <= 0.1)
    (2, True)
    """
    check_options(options, EstimateOptions, estimate_basins)
    first = options.get("first", 32)
    default = STOPPING_INTERVAL if above is None else "sequence"
    rule = Rule(half_width, confidence, max_restarts, above, method or default)
    law_of(options.get("initial"), system)  # given starts are too few for more restarts
    require_integers(first=first)
    run = Run.of(system, inputs, **part_of(options, RunOptions))
    if options.get("recheck"):
        run = run.with_(keep=("summary", "final_state"))
    if above is not None and not run.judge.known:
        raise ValueError("above needs to know what is correct: give labels or an oracle")
    limits, begun = run.tolerances, dict[str, Any]()

    def draw(puzzles: np.ndarray, drawn: int, number: int) -> list[Runs]:
        nonlocal limits
        part = run.puzzles(puzzles).with_(restarts=number, first_restart=drawn, tolerances=limits)
        ensemble = part.sample(batch_size=options.get("batch_size"))
        if not begun:
            begun.update(schema.carried(ensemble))
            limits = limits.pinned(settled_band(ensemble))
        return runs_of(ensemble)

    puzzles, progress = len(run.inputs), options.get("progress", False)
    runs, found, reviews = collect(draw, puzzles, min(first, max_restarts), rule, progress)
    variables = tabulate(runs, found, confidence, rule.method) | _verdicts(runs, found, reviews, rule)
    attributes = {
        **begun,
        "restarts": max(map(len, runs)),
        "confidence": confidence,
        "interval_method": rule.method,
        "half_width": "none" if above else half_width,
        "max_restarts": max_restarts,
        "above": "none" if above is None else above,
        "fixed_restarts": restarts_for(half_width, confidence, rule.method),
    }
    codes = {"fate": schema.FATES, "stop": STOPS, "correct_mass_above": DECISIONS}
    return schema.dataset(variables, attributes, codes=codes)


@functools.lru_cache(maxsize=4096)
def restarts_for(
    half_width: float, confidence: float = 0.95, method: str = STOPPING_INTERVAL, mass: float = 0.5
) -> int:
    """Return the number of restarts with which the interval of this mass has this half-width; 1/2 is the worst case.

    Examples
    --------
    >>> restarts_for(0.05), restarts_for(0.05, mass=0.01)
    (402, 44)
    """
    n = 1
    while _half_width(mass, 2 * n, confidence, method) > half_width:
        n *= 2
    low, high = n, 2 * n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if _half_width(mass, middle, confidence, method) <= half_width else (middle, high)
        )
    return high


def _half_width(mass: float, n: int, confidence: float, method: str) -> float:
    low, high = proportion_interval(np.array(mass * n), n, confidence, method)
    return float(high - low) / 2


def collect(
    draw: Callable[[np.ndarray, int, int], list[Runs]],
    puzzles: int,
    first: int,
    rule: Rule,
    progress: bool | Callable[[int, int], None] = False,
) -> tuple[list[Runs], list[Clusters], list[Review]]:
    """Draw rounds of restarts until the rule lets every puzzle stop.

    Parameters
    ----------
    draw
        `(puzzles, drawn, number)` -> the runs of restarts drawn, ..., drawn + number - 1 of these puzzles.
    """
    runs: list[Runs] = draw(np.arange(puzzles), 0, first)
    found = [identify(r) for r in runs]
    reviews = [review(r, c, rule) for r, c in zip(runs, found, strict=True)]
    with tqdm(total=puzzles, unit="puzzle", desc="basins", **shown(progress)) as bar:
        while True:
            waiting = [p for p in range(puzzles) if reviews[p].stop is None]
            bar.update(puzzles - len(waiting) - bar.n)
            if callable(progress):
                progress(puzzles - len(waiting), puzzles)
            if not waiting:
                return runs, found, reviews
            groups: dict[tuple[int, int], list[int]] = defaultdict(list)
            for p in waiting:
                groups[len(runs[p]), reviews[p].more].append(p)
            for (drawn, number), members in groups.items():
                for p, new in zip(members, draw(np.array(members), drawn, number), strict=True):
                    runs[p] = join(runs[p], new)
                    found[p] = identify(runs[p])
                    reviews[p] = review(runs[p], found[p], rule)


def review(runs: Runs, clusters: Clusters, rule: Rule) -> Review:
    """Return whether a puzzle may stop, and if not, how many restarts to draw next."""
    n = len(runs)
    count = np.bincount(clusters.label[clusters.label >= 0], minlength=len(clusters.fewest))
    right = _right(runs, clusters)
    changing = int(count[clusters.changing].sum())
    others = np.array([n - count.sum(), right, count.sum() - right - changing, changing])
    fewest, most = np.append(clusters.fewest, others), np.append(clusters.most, others)
    counts = np.append(count, others)
    left = rule.max_restarts - n
    decided = rule.above is not None and bool(mass_above(np.array(right), n, rule.above, rule.confidence))
    if rule.above is not None and not decided and left > 0:
        return Review(None, np.nan, min(max(STEP, n // 4), left))
    low = proportion_interval(fewest, n, rule.confidence, rule.method)[0]
    high = proportion_interval(most, n, rule.confidence, rule.method)[1]
    widest = float((high - low).max()) / 2
    if rule.above is not None:
        return Review("decided" if decided else "max_restarts", widest, 0)
    plain = np.subtract(*proportion_interval(counts, n, rule.confidence, rule.method)[::-1]) / 2
    if widest <= rule.half_width:
        return Review("precise", widest, 0)
    if plain.max() <= rule.half_width:
        return Review("ambiguous", widest, 0)
    if left <= 0:
        return Review("max_restarts", widest, 0)
    mass = round(float(counts[plain.argmax()] / n), 2)
    need = restarts_for(rule.half_width, rule.confidence, rule.method, mass) - n
    return Review(None, widest, min(_round_size(min(need, n)), left))


def _right(runs: Runs, clusters: Clusters) -> int:
    """Return the number of runs that are right at an attractor whose answer stays the same."""
    at = clusters.label >= 0
    return int((runs.correct[at] & ~clusters.changing[clusters.label[at]]).sum())


def _round_size(need: int) -> int:
    """Round down to one of few sizes, so that puzzles share rounds: 16, 24, 32, 48, 64, 96, ..."""
    if need <= STEP:
        return STEP
    power = 1 << (need.bit_length() - 1)
    return power + power // 2 if need >= power + power // 2 else power


def _verdicts(
    runs: list[Runs], found: list[Clusters], reviews: list[Review], rule: Rule
) -> dict[str, schema.Variable]:
    each = ("puzzle",)
    stop = np.array([STOPS.index(str(r.stop)) for r in reviews], np.int8)
    variables: dict[str, schema.Variable] = {
        "stop": (each, stop, "why no more restarts were drawn"),
        "half_width": (each, np.array([r.half_width for r in reviews]), "half of the widest interval of a mass"),
    }  # fmt: skip
    if rule.above is not None:
        right = np.array([_right(r, c) for r, c in zip(runs, found, strict=True)])
        sign = mass_above(right, np.array([len(r) for r in runs]), rule.above, rule.confidence)
        code = np.where(sign > 0, 2, np.where(sign < 0, 1, 0)).astype(np.int8)
        variables["correct_mass_above"] = (each, code, f"whether the correct mass is above {rule.above}")
    return variables
