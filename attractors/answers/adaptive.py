"""Adaptive inference: restarts stream through a queue of fixed width, each stopped, dropped or replaced by a policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.utils import _pytree as pytree

from eqrlab.attractors.answers.commit import Clues, committed_inputs
from eqrlab.attractors.answers.policy import ENDS, REASONS, Policy, Race
from eqrlab.attractors.ensemble.arguments import require_integers
from eqrlab.attractors.ensemble.batches import one_thread_a_batch
from eqrlab.attractors.ensemble.contract import starts_of
from eqrlab.attractors.ensemble.iterate import norms, starts
from eqrlab.attractors.ensemble.options import DrawOptions, check_options, part_of
from eqrlab.attractors.ensemble.recipe import Law, Recipe
from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval
from eqrlab.attractors.statistics.bootstrap import RESAMPLES, mean_over_puzzles, share_over_puzzles, widened
from eqrlab.core import KeyedNoise, System
from eqrlab.core.models.system import dtype_name, take_rows
from eqrlab.core.progress import shown, tqdm
from eqrlab.core.random import restart_keys


class AdaptiveOptions(DrawOptions, total=False):
    """Options of `adaptive` besides those of `DrawOptions`.

    clues
        Which tokens may be written into which cells, see `commit`: for a policy that commits.
    """

    clues: Clues


def adaptive(
    system: System,
    inputs: Tensor | np.ndarray,
    policy: Policy | None = None,
    *,
    slots: int = 256,
    initial: Tensor | Law | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    progress: bool = False,
    **options: Unpack[AdaptiveOptions],
) -> xr.Dataset:
    """Answer every puzzle with as few outer steps as a policy needs.

    Parameters
    ----------
    system
        Any `eqrlab.core.System`; with `halt_logit` where the policy looks at it.
    inputs
        Puzzles (P, L), integer tokens.
    policy
        When runs stop, which continue, and when a puzzle has its answer; None: `Policy()`, one restart until it halts.
    labels, identifiers, oracle, seed, noise, initial, device, dtype
        As for `sample`: restart r of a puzzle is the same run as there, as long as it runs.
    slots
        Rows that are stepped at once.  Results depend on it only by rounding.
    confidence, resamples
        Of the intervals, which resample whole puzzles.
    progress
        Show a bar on a terminal.
    **options
        Also `clues`, see `AdaptiveOptions`.

    Returns
    -------
    xarray.Dataset
        Over puzzle: `answer` (token) and `correct` of it, `nfe` = outer steps of all runs of the puzzle, `latency` =
        outer steps made one after another, `chosen` = restart, `reason` why it was chosen then: agreed, decided (the
        majority cannot change), accepted (all ended), exhausted (none was accepted).  Over (puzzle, restart): `end` =
        unused, accepted, exhausted, dropped or stopped (the puzzle was decided), and `steps` made.  `accuracy`,
        `mean_nfe`, `mean_latency` with `_low`, `_high`.

    Raises
    ------
    ValueError
        For arguments as in `sample`, or a policy that uses a halting logit which the system does not have, or that
        commits without clues.

    Notes
    -----
    The map is evaluated once for each counted outer step and never otherwise: what the policy uses (answer,
    halting logit, norm of the update) comes with the step.  A restart that ends is replaced at once by the next
    restart of its puzzle, and a decided puzzle by the next puzzle, so that `slots` rows are busy until the
    queue is empty.  The runs of a puzzle advance in step with one another.  Memory: twice `slots` states and
    contexts, and a few numbers for each (puzzle, restart).  On a CPU puzzles are dealt to as many queues as
    torch has threads.

    References
    ----------
    Equilibrium Reasoners, arXiv 2605.21488 (adaptive computation at test time); Jamieson & Talwalkar 2016, "Non-
    stochastic best arm identification and hyperparameter optimization" (successive halving).

    Examples
    --------
    >>> import torch
    >>> from eqrlab.attractors import Policy
    >>> from eqrlab.core import MapSystem
    >>> half = MapSystem(lambda z, x: z / 2, lambda x, g: torch.ones(len(x), 1, dtype=torch.float64))
    >>> eager = Policy(stop="settled", settled_below=1.5, window=3, depth=50)
    >>> adaptive(half, torch.arange(5)[:, None], eager).nfe.values.tolist()  # no answer before the first step
    [4, 4, 4, 4, 4]
    """
    check_options(options, AdaptiveOptions, adaptive)
    policy, clues = policy or Policy(), options.get("clues")
    drawing = part_of(options, DrawOptions)
    recipe = Run.of(system, inputs, restarts=policy.restarts, depth=policy.depth, initial=initial, **drawing)
    if policy.needs_halting and getattr(recipe.system, "halt_logit", None) is None:
        raise ValueError(
            "the policy needs a halting logit, which this system does not have; choose stop='settled'"
        )
    if policy.commit and (clues is None or getattr(recipe.system, "logits", None) is None):
        raise ValueError("a policy that commits needs `clues`, and a system with a method logits(z, x)")
    require_integers(slots=slots)
    puzzles = len(recipe.inputs)
    queues = min(torch.get_num_threads(), puzzles) if recipe.place.device.type == "cpu" else 1
    # Dealt in turn, so that every queue gets about as many hard puzzles; `order` below undoes it.
    pieces = [np.arange(start, puzzles, queues) for start in range(queues)]
    with (
        tqdm(total=puzzles, unit="puzzle", **shown(progress)) as bar,
        one_thread_a_batch(recipe.place.device, queues) as run,
    ):
        share = max(1, slots // queues)
        parts = list(run(lambda ids: _Stream(recipe, policy, ids, share, clues).run(bar.update), pieces))
    order = np.argsort(np.concatenate(pieces))
    answer = np.concatenate([stream.answer for stream in parts])[order]
    field = lambda name: np.concatenate([getattr(stream.race, name) for stream in parts])[order]
    variables: dict[str, schema.Variable] = {
        "answer": (("puzzle", "token"), answer.astype(np.int32), "answer chosen"),
        "latency": (("puzzle",), field("clock"), "outer steps made one after another"),
        "chosen": (("puzzle",), field("chosen"), "restart whose answer is chosen"),
        "reason": (("puzzle",), field("reason"), "why the answer was chosen then"),
        "end": (("puzzle", "restart"), field("end"), "how the restart ended"),
        "steps": (("puzzle", "restart"), field("used"), "outer steps the restart made"),
    }
    correct = None
    if recipe.judge.known:
        correct, _ = recipe.judge(recipe.inputs.numpy(), answer)
    variables |= totals(
        [policy], correct, field("spent"), field("clock"), confidence=confidence, resamples=resamples
    )
    attributes = {
        **schema.provenance(recipe.system),
        "title": "eqrlab: adaptive inference",
        "seed": recipe.seed,
        "noise": recipe.noise,
        **starts_of(recipe.system, recipe.initial),
        "dtype": dtype_name(recipe.dtype),
        "device": str(recipe.place.device),
        "oracle": recipe.judge.name,
        **described(policy),
        "confidence": confidence,
    }
    return schema.dataset(variables, attributes, codes={"end": ENDS, "reason": REASONS})


def described(policy: Policy) -> dict[str, Any]:
    """Return the attributes that describe a policy."""
    return {"policy": dataclasses.asdict(policy), "restarts": policy.restarts, "depth": policy.depth}


def totals(
    policies: Sequence[Policy],
    correct: np.ndarray | None,
    nfe: np.ndarray,
    latency: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> dict[str, schema.Variable]:
    """Return correctness and cost of puzzles, and their means with bounds from resampling puzzles.

    The costs are those of the policies, of which each answered some of the puzzles: they bound what others may cost.
    """
    draw: dict[str, Any] = {"confidence": confidence, "resamples": resamples}
    variables: dict[str, schema.Variable] = {
        "nfe": (("puzzle",), nfe, "outer steps of all runs of the puzzle")
    }
    if correct is not None:
        variables["correct"] = (("puzzle",), correct, "the chosen answer is right")
        bounds = share_over_puzzles(np.asarray(correct, float), **draw)
        variables |= (
            Interval(*bounds).each(np.float64).variables("accuracy", (), "share of puzzles answered right")
        )
    for name, values in (("nfe", nfe), ("latency", latency)):
        least, most = (pick(p.cost(name)[i] for p in policies) for i, pick in enumerate((min, max)))
        mean, low, high = mean_over_puzzles(values, **draw)
        ends = widened(mean, low, high, len(values), confidence, least, most)
        mean_value = Interval(mean, *ends).each(np.float64)
        variables |= mean_value.variables(f"mean_{name}", (), f"mean over puzzles of {name}")
    return variables


class _Stream:
    """A queue of puzzles over a fixed number of slots; rows are runs (puzzle, lane) with state, context and key."""

    def __init__(self, recipe: Recipe, policy: Policy, puzzles: np.ndarray, slots: int, clues: Clues | None):
        self.recipe, self.slots, self.puzzles, self.clues = recipe, slots, puzzles, clues
        self.filled: dict[tuple[int, int], np.ndarray] = {}  # (place, lane): its puzzle with clues
        self.race = Race(policy, len(puzzles))
        self.keys = recipe.keys(puzzles)
        self.admitted = 0
        # (place of the puzzle in this queue, lane), in the order of admission
        self.row = np.empty((0, 2), int)
        self.stepped = np.empty(0, bool)  # whether the row has made the present step of its puzzle
        self.state: list[Any] = []  # [z, x, keys], rows aligned
        lanes = self.race.restart.shape
        self.update, self.halt = np.full(lanes, np.nan), np.full(lanes, np.nan)
        self.code = np.zeros(lanes, np.uint64)
        self.tokens: list[np.ndarray] = [np.empty(0)] * len(puzzles)  # of present runs (lane, token)
        # answers that may be chosen, by restart
        self.found: list[dict[int, np.ndarray]] = [{} for _ in puzzles]
        self.answer = np.empty((0, 0))

    @torch.no_grad()
    def run(self, tick: Callable[[int], Any]) -> _Stream:
        """Run the queue until it is empty."""
        answers: dict[int, np.ndarray] = {}
        self._renew(np.empty(0, int))
        while len(self.row):
            self._step(np.flatnonzero(~self.stepped)[: self.slots])
            waiting = np.bincount(self.row[~self.stepped, 0], minlength=len(self.puzzles))
            ids = np.unique(self.row[self.stepped, 0])
            ids = ids[waiting[ids] == 0]
            if not len(ids):
                continue
            ended = self.race.advance(ids, self.update[ids], self.halt[ids], self.code[ids])
            for i, lane in zip(*np.nonzero(ended >= 0), strict=True):
                self.found[ids[i]][int(ended[i, lane])] = self.tokens[ids[i]][lane].copy()
            if self.race.policy.commit:
                self._commit(ids, ended)
            done = ids[self.race.chosen[ids] >= 0]
            for i in done:
                answers[i] = self.found[i][int(self.race.chosen[i])]
                self.found[i], self.tokens[i] = {}, np.empty(0)
            tick(len(done))
            self._renew(ids)
        self.answer = np.stack([answers[i] for i in range(len(self.puzzles))])
        return self

    def _step(self, rows: np.ndarray) -> None:
        """Make one outer step of some rows and note what the policy wants to know."""
        system, (place, lane) = self.recipe.system, self.row[rows].T
        every = len(rows) == len(self.row)
        index = slice(None) if every else torch.as_tensor(rows, device=self.recipe.place.device)
        z, x, keys = (take_rows(part, index) for part in self.state)
        noise = None
        if self.recipe.noise:
            noise = KeyedNoise(keys, torch.as_tensor(self.race.step[place, lane] + 1))
        following = system.step(z, x, noise)
        size, move = norms(following, following - z)
        relative = torch.where(move == 0, 0.0, move / size)  # at rest at the origin, too
        answer = system.decode(following, x).cpu().numpy()
        if every:
            self.state[0] = following
        else:
            self.state[0][index] = following
        self.update[place, lane] = relative.cpu().numpy()
        self.code[place, lane] = self.recipe.judge.of(self.puzzles[place]).codes(answer)
        head = getattr(system, "halt_logit", None)
        if head is not None:
            self.halt[place, lane] = head(following, x).float().cpu().numpy()
        for i, j, tokens in zip(place, lane, answer, strict=True):
            if not len(self.tokens[i]):
                self.tokens[i] = np.empty((self.race.restart.shape[1], len(tokens)), answer.dtype)
            self.tokens[i][j] = tokens
        self.stepped[rows] = True

    def _commit(self, ids: np.ndarray, ended: np.ndarray) -> None:
        """Write the surest cells of runs that ended without being accepted into the puzzle of what runs there next."""
        for i, lane in zip(*np.nonzero(ended >= 0), strict=True):
            place, lane = int(ids[i]), int(lane)
            was_filled = self.filled.pop((place, lane), None) is not None
            exhausted = ENDS[self.race.end[place, ended[i, lane]]] == "exhausted"
            if was_filled or not exhausted or self.race.restart[place, lane] < 0:
                continue
            row = torch.as_tensor(np.flatnonzero((self.row == (place, lane)).all(1)))
            z, x = (take_rows(part, row.to(self.recipe.place.device)) for part in self.state[:2])
            given = self.recipe.inputs[self.puzzles[place]].numpy()[None]
            assert self.clues is not None
            logits = self.recipe.system.logits(z, x)  # type: ignore[attr-defined]
            filled = committed_inputs(given, logits, self.clues, self.race.policy.commit)
            self.filled[place, lane] = filled[0]

    def _renew(self, ids: np.ndarray) -> None:
        """Remove the rows of ended runs of puzzles that advanced, and fill the slots from the queue."""
        advanced = np.isin(self.row[:, 0], ids)
        fresh = (self.race.restart[ids] >= 0) & (self.race.step[ids] == 0)
        keep = ~advanced | (self.race.restart[*self.row.T] >= 0)
        keep &= ~advanced | (self.race.step[*self.row.T] > 0)
        i, lane = np.nonzero(fresh)
        new = [np.stack([ids[i], lane], 1)]
        count = int(keep.sum()) + len(new[0])
        while self.admitted < len(self.puzzles) and count < self.slots:
            lanes = np.flatnonzero(self.race.restart[self.admitted] >= 0)
            new.append(np.stack([np.full(len(lanes), self.admitted), lanes], 1))
            count, self.admitted = count + len(lanes), self.admitted + 1
        added = np.concatenate(new)
        self.stepped[advanced] = False
        if keep.all() and not len(added):
            return
        parts = self._rows(added) if len(added) else None
        kept = torch.as_tensor(np.flatnonzero(keep), device=self.recipe.place.device)
        old = [take_rows(part, kept) for part in self.state] if len(kept) else None
        self.state = _joined(old, parts)
        self.stepped = np.concatenate([self.stepped[keep], np.zeros(len(added), bool)])
        self.row = np.concatenate([self.row[keep], added])

    def _rows(self, added: np.ndarray) -> list[Any]:
        """Return starts, contexts and keys of new runs (place, lane)."""
        recipe, (place, lane) = self.recipe, added.T
        puzzles, restarts = self.puzzles[place], self.race.restart[place, lane]
        x = recipe.context(puzzles)
        if any(tuple(row) in self.filled for row in added.tolist()):
            given = zip(puzzles, added.tolist(), strict=True)
            tokens = [self.filled.get(tuple(row), recipe.inputs[p].numpy()) for p, row in given]
            with_clues = recipe.puzzles(puzzles).with_(inputs=torch.as_tensor(np.stack(tokens)))
            x = with_clues.context(np.arange(len(puzzles)))
        mine = {int(p): self.keys[i] for p, i in zip(puzzles, place, strict=True)}
        z = starts(recipe, x, puzzles, restarts, mine)
        keys = torch.tensor([self.keys[i] for i in place], dtype=torch.int64)
        return [z, x, restart_keys(keys, torch.as_tensor(restarts)).to(recipe.place.device)]


def _joined(first: list[Any] | None, second: list[Any] | None) -> list[Any]:
    """Concatenate rows of states, contexts and keys."""
    if first is None or second is None:
        return first or second or []
    join = lambda a, b: torch.cat((a, b)) if isinstance(a, Tensor) else a
    return [pytree.tree_map(join, a, b) for a, b in zip(first, second, strict=True)]
