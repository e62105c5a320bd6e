"""Continuation: attractors, their masses and the modes followed over a parameter or over training checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Unpack

import numpy as np
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.options import AnalysisOptions, RunOptions, check_options, part_of
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.fates.fate import Tolerances
from eqrlab.attractors.landscape.basins import basins
from eqrlab.attractors.landscape.branch_matching import (
    NOWHERE,
    SEVERAL,
    Push,
    Stage,
    match_answers,
    match_states,
    sweep,
)
from eqrlab.attractors.landscape.mode_rule import ModeRule
from eqrlab.attractors.landscape.modes import modes
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import share_over_puzzles
from eqrlab.attractors.statistics.intervals import DEFAULT_INTERVAL, proportion_interval, stated_level
from eqrlab.core import System
from eqrlab.core.progress import shown, tqdm

MATCHES = ("state", "answer")
EVENTS = ("absent", "first", "continues", "born")
MASSES = ("correct_mass", "spurious_mass", "mass_none", "unseen_mass")


class ContinuationOptions(AnalysisOptions, total=False):
    """Options of `continuation`: how runs are made and judged at a value, and how states are followed to the next."""

    restarts: int
    tolerances: Tolerances | None
    most: int
    push: float
    directions: int


def continuation(
    systems: Mapping[float, System],
    inputs: Tensor | np.ndarray,
    *,
    parameter: str = "parameter",
    match: str = "state",
    initial: Law | Mapping[float, Law] | None = None,
    confidence: float = 0.95,
    rule: ModeRule | None = None,
    **options: Unpack[ContinuationOptions],
) -> xr.Dataset:
    """Follow each puzzle's attractors and their basin masses as a parameter changes.

    Parameters
    ----------
    systems
        Mapping from increasing values of the parameter to systems: `{0.0: model.with_noise(0.0), ...}`, or
        checkpoints by their training step.
    inputs, labels, oracle, restarts, depth, seed, noise, batch_size, device, dtype, tolerances
        As in `sample`, the same at every value: restart r has the same start at all of them; default 32 restarts.
    parameter
        Name of the parameter, for titles.
    match
        "state": attractors are followed through state space, whatever happens to their answers; "answer": attractors
        with equal answers are one branch.
    initial
        Restart law, or a law for each value; None: each system's own.
    most
        Largest number of attractors of a puzzle that are followed from a value to its neighbours, the largest
        attractors first; default 12.
    push, directions
        A state is followed in copies pushed by this share of its norm, to both sides along this number of random
        directions; defaults 1e-3 and 2.
    confidence, rule
        Confidence of the intervals; rule of the modes.
    progress
        True shows a bar on a terminal; a callable receives (values done, all).

    Returns
    -------
    xarray.Dataset
        Over (value, puzzle, branch): `mass` with bounds (0 with an upper bound where an attractor exists but no restart
        reached it), `count`, `alive`, `correct`, `event` with flags absent, first, continues, born, `goes_to` = the
        branch it ends at under the next value's map (-1: at none, -2: at several), `step_length` = relative distance
        from the same branch at the value before.  Over (puzzle, branch): `answer` (token) where it first appears.  Over
        (value, puzzle): `attractors`, `born`, `died`, `correct_mass`, `spurious_mass`, `mass_none` with bounds,
        `unseen_mass` with its upper bound; with correctness known `mode`, `mode_probability`.  Over value: `accuracy`
        (of one restart at the last step) and, over mode, `landscape_share`, with bounds over puzzles;
        `landscape_mode`.

    Raises
    ------
    ValueError
        For fewer than two values, values not increasing, an unknown `match`, or what `sample` refuses.

    Notes
    -----
    "state": a representative of every attractor is pushed and followed under the map of each neighbouring value.  Two
    attractors belong to one branch if all pushes of each end at the other.  An attractor that turns into a saddle
    therefore dies, although its state is still a fixed point, and an attractor that few restarts reach is not lost.  An
    attractor whose basin is narrower than the push cannot be followed; it seems to die and to be born again.  If the
    parameter includes noise, runs are followed under that noise.

    "answer": `alive` means that a restart ended there.  An attractor not reached by B restarts may have a mass of up to
    about 3 / B, so that births and deaths of rare answers may be chance.

    Births and deaths are located between two values; finer values locate them better.  Cost: values * restarts * depth
    steps a puzzle, and with "state" 4 * directions * depth more for each attractor and value.

    References
    ----------
    Datseris, Rossi & Wagemakers 2023, "Framework for global stability analysis of dynamical systems" (continuation of
    attractors by seeding and matching; here two-way following replaces a matching distance).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> law = lambda x, g: torch.randn((len(x), 1), generator=g, dtype=torch.float64)
    >>> systems = {b: MapSystem(lambda z, x, b=b: torch.tanh(b * z), law) for b in (0.8, 0.9, 1.3, 1.5)}
    >>> found = continuation(systems, torch.zeros(1, 1, dtype=torch.long), restarts=16, depth=128)
    >>> found.born.values[:, 0].tolist(), found.died.values[:, 0].tolist()  # the pitchfork at 1
    ([0, 0, 2, 0], [0, 0, 1, 0])
    """
    check_options(options, ContinuationOptions, continuation)
    most, push, directions = options.get("most", 12), options.get("push", 1e-3), options.get("directions", 2)
    progress, seed = options.get("progress", False), options.get("seed", 0)
    values = list(systems)
    if len(values) < 2 or any(b <= a for a, b in pairwise(values)):
        raise ValueError(
            f"systems must have two or more increasing values, got {', '.join(map(str, values))}"
        )
    if match not in MATCHES:
        raise ValueError(f"match {match!r} unknown; choose from {', '.join(MATCHES)}")
    if most < 1 or directions < 1 or not push > 0:
        raise ValueError(f"most and directions must be >= 1 and push > 0, got {most}, {directions}, {push}")
    common: RunOptions = {"restarts": 32, **part_of(options, RunOptions), "keep": ("summary", "final_state")}
    stages = []
    with tqdm(values, desc=parameter, **shown(progress)) as bar:
        for done, value in enumerate(bar):
            common["initial"] = initial[value] if isinstance(initial, Mapping) else initial
            stages.append(Stage(Run.of(systems[value], inputs, **common), options.get("batch_size")))
            if callable(progress):
                progress(done + 1, len(values))
    if match == "state":
        sweep(stages, most, Push(push, directions, seed))
    variables = _branches(stages, match, confidence) | _summary(stages, confidence, rule, seed)
    attributes = {
        **schema.carried_together({str(v): stage.ensemble for v, stage in zip(values, stages, strict=True)}),
        "parameter": parameter, "match": match, "confidence": confidence,
        "push": push, "directions": directions, "most_followed": most, "interval_method": DEFAULT_INTERVAL,
    }  # fmt: skip
    codes = {"event": EVENTS, "mode": schema.MODES, "landscape_mode": schema.MODES}
    names = {k: v for k, v in codes.items() if k in variables}
    coordinates = {"value": values, "mode": list(schema.MODES)}
    coordinates["puzzle"] = stages[0].ensemble.puzzle.values
    return schema.dataset(variables, attributes, coordinates, names)


def _branches(stages: list[Stage], match: str, confidence: float) -> dict[str, schema.Variable]:
    """Return the variables of every branch: masses, births, and where it goes."""
    puzzles, total = len(stages[0].runs), stages[0].restarts
    matched = [(match_states if match == "state" else match_answers)(stages, p) for p in range(puzzles)]
    most = max([1, *(int(b.max()) + 1 for branch, _ in matched for b in branch if len(b))])
    shape = (len(stages), puzzles, most)
    count, low, high = (np.zeros(shape, np.int32) for _ in range(3))
    alive, correct = np.zeros(shape, bool), np.zeros(shape, bool)
    goes = np.full(shape, NOWHERE, np.int32)
    length = np.full(shape, np.nan)
    answer = np.full((puzzles, most, stages[0].runs[0].answer.shape[1]), -1, np.int32)
    before: dict[tuple[int, int], np.ndarray] = {}
    for i, stage in enumerate(stages):
        now: dict[tuple[int, int], np.ndarray] = {}
        for p in range(puzzles):
            found, runs = stage.clusters(p), stage.runs[p]
            branch, target = matched[p][0][i], matched[p][1][i]
            # Masses count restarts only; visitors from neighbouring values just show that an attractor exists.
            for a, b in enumerate(branch):
                members = found.label == a
                own = members[:total]
                best = np.flatnonzero(members)[np.argmin(runs.error[members])]
                place = i, p, b
                count[place] += own.sum()
                # Which state a run reached may be in doubt, which answer it has is not.  A branch of states is alive
                # as soon as any run, visitors included, ends at it.
                if match == "state":
                    low[place] += (own & ~found.doubtful[:total]).sum()
                    high[place] += (own | found.doubtful[:total]).sum()
                    alive[place] = True
                else:
                    low[place] = high[place] = count[place]
                    alive[place] = count[place] > 0
                correct[place] = runs.correct[best] and not found.changing[a]
                goes[place] = target[a]
                if answer[p, b, 0] < 0:
                    answer[p, b] = runs.answer[best]
                now[p, b] = runs.place[best]
                if match == "state" and (p, b) in before:
                    length[place] = np.linalg.norm(now[p, b] - before[p, b]) / runs.scale[best]
        before = now
    # Births and deaths follow from `alive` at two successive values.
    earlier = np.concatenate([np.zeros((1, *shape[1:]), bool), alive[:-1]])
    first = np.arange(shape[0])[:, None, None] == 0
    event = np.select([~alive, first, earlier], [0, 1, 2], 3).astype(np.int8)
    died = earlier & ~alive
    bounds = proportion_interval(low, total, confidence)[0], proportion_interval(high, total, confidence)[1]
    each, pair = ("value", "puzzle", "branch"), ("value", "puzzle")
    seen = lambda values: np.where(alive | (match == "answer"), values, np.nan)
    return {
        **Interval(count / total, *bounds).each(seen).variables(
            "mass", each, "share of restarts that reach the branch", f"the mass, {stated_level(confidence)} interval"
        ),
        "count": (each, count, "restarts that reach the branch"),
        "alive": (each, alive, "the branch is an attractor at this value"),
        "correct": (each, correct, "the branch decodes to a right answer at this value"),
        "event": (each, event, "what happened to the branch since the value before"),
        "goes_to": (each, goes, f"branch it ends at under the next value, {NOWHERE} none, {SEVERAL} several"),
        "step_length": (each, length, "distance from the branch at the value before, over the norm"),
        "answer": (("puzzle", "branch", "token"), answer, "answer of the branch where it first appears"),
        "attractors": (pair, alive.sum(2).astype(np.int32), "branches that are attractors"),
        "born": (pair, (event == EVENTS.index("born")).sum(2).astype(np.int32), "branches born since the value before"),
        "died": (pair, died.sum(2).astype(np.int32), "branches that died since the value before"),
    }  # fmt: skip


def _summary(
    stages: list[Stage], confidence: float, rule: ModeRule | None, seed: int
) -> dict[str, schema.Variable]:
    """Return masses by kind and, if correctness is known, accuracies and modes, at every value."""
    found = [basins(s.ensemble, confidence=confidence) for s in stages]
    names = [f"{n}{e}" for n in MASSES for e in ("", "_low", "_high") if f"{n}{e}" in found[0]]
    variables = _stacked(found, names)
    if "correct" not in stages[0].ensemble:
        return variables
    verdicts = [modes(s.ensemble, confidence=confidence, rule=rule, seed=seed) for s in stages]
    right = np.stack([s.ensemble.correct.values[:, :, -1].mean(1) for s in stages], 1)
    shares = share_over_puzzles(right, confidence=confidence, seed=seed)
    text = "share of runs right at the last step"
    for end, values in zip(("", "_low", "_high"), shares, strict=True):
        bound = f", bound over puzzles, {stated_level(confidence)}" if end else ""
        variables[f"accuracy{end}"] = (("value",), values, text + bound)
    share = (f"landscape_share{e}" for e in ("", "_low", "_high"))
    return variables | _stacked(verdicts, ["mode", "mode_probability", "landscape_mode", *share])


def _stacked(found: list[xr.Dataset], names: list[str]) -> dict[str, schema.Variable]:
    """Return variables of the datasets of all values, over value."""
    return {
        name: (
            ("value", *map(str, found[0][name].dims)),
            np.stack([f[name].values for f in found]),
            found[0][name].attrs["long_name"],
        )
        for name in names
    }
