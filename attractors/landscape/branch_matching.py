"""Attractors at neighbouring values of a parameter: pushed, followed, and matched into branches."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.run import Run
from eqrlab.attractors.ensemble.runs import Runs, join, runs_of, settled_band
from eqrlab.attractors.landscape.identify import Clusters, identify, representatives
from eqrlab.attractors.landscape.leaders import ERROR_FACTOR
from eqrlab.core.random import puzzle_keys, restart_generator

NOWHERE, SEVERAL = -1, -2
VISITORS = 2**30  # restart numbers of followed states begin here


class Stage:
    """Runs of all puzzles at one value: the restarts first, then states that were followed from neighbours.

    Attributes
    ----------
    ensemble
        The restarts.
    runs
        Runs of each puzzle: the restarts, then the states followed from neighbouring values ("visitors").
    origin
        (n, 2) for each puzzle: value and row from which a visitor came, -1 for restarts.
    """

    def __init__(self, run: Run, batch_size: int | None):
        self.batch_size = batch_size
        self.ensemble = run.sample(batch_size=batch_size)
        self.run = run.with_(tolerances=run.tolerances.pinned(settled_band(self.ensemble)))
        self.runs = runs_of(self.ensemble)
        self.origin = [np.full((len(r), 2), -1) for r in self.runs]
        self._found: dict[int, Clusters] = {}
        self.shape = tuple(self.ensemble.final_state.shape[2:])

    @property
    def restarts(self) -> int:
        return int(self.ensemble.sizes["restart"])

    def clusters(self, puzzle: int) -> Clusters:
        """Return the attractors of a puzzle, from restarts and visitors alike."""
        if puzzle not in self._found:
            self._found[puzzle] = identify(self.runs[puzzle])
        return self._found[puzzle]

    def representatives(self, puzzle: int, most: int) -> np.ndarray:
        """Return one row at each of the largest attractors of a puzzle: the best converged one."""
        return representatives(self.runs[puzzle], self.clusters(puzzle).label, most)

    def visit(self, other: Stage, place: int, rows: list[np.ndarray], push: Push) -> None:
        """Follow states of another stage under the map of this one: opposite pushes of these rows of each puzzle.

        Parameters
        ----------
        place
            Number of the other stage.
        rows
            Rows (k,) of each puzzle.
        """
        copies = 2 * push.directions
        widest = max(map(len, rows))
        if widest == 0:
            return
        kind = torch.as_tensor(other.ensemble.final_state.values[:0]).dtype
        starts = torch.zeros((len(rows), widest * copies, *self.shape), dtype=kind)
        keys = puzzle_keys(push.seed, self.run.inputs, self.run.identifiers)
        for p, chosen in enumerate(rows):
            if len(chosen):
                one = other.runs[p].take(chosen)
                pushed = push.around(one, keys[p]).reshape(-1, *self.shape)
                again = torch.arange(widest * copies) % len(pushed)  # the surplus is run, and not looked at
                starts[p] = pushed[again]
            else:
                starts[p] = torch.as_tensor(other.ensemble.final_state.values[p, :1])
        visitors = self.run.with_(initial=starts, restarts=widest * copies, first_restart=VISITORS)
        ended = visitors.sample(batch_size=self.batch_size)
        for p, new in enumerate(runs_of(ended)):
            number = len(rows[p]) * copies
            shift = VISITORS + len(self.runs[p]) - self.restarts
            new = dataclasses.replace(new.take(np.arange(number)), restart=shift + np.arange(number))
            self.runs[p] = join(self.runs[p], new)
            self._found.pop(p, None)
            came = np.stack([np.full(number, place), np.repeat(rows[p], copies)], 1)
            self.origin[p] = np.concatenate([self.origin[p], came])


class Push(NamedTuple):
    """How states are pushed before they are followed: along a number of random directions, to both sides."""

    size: float
    directions: int
    seed: int

    def around(self, runs: Runs, key: int) -> Tensor:
        """Return pushed copies (k, 2 * directions, d) of final states; those of a puzzle do not depend on others.

        The length is a share of the state's scale plus three times its error, so that the attractor lies between the
        copies.
        """
        z = torch.as_tensor(runs.state)
        generator = restart_generator(key, VISITORS)
        drawn = torch.randn((self.directions, z.shape[1]), generator=generator, dtype=torch.float64)
        unit = drawn / drawn.norm(dim=1, keepdim=True)
        length = torch.as_tensor(runs.scale * (self.size + ERROR_FACTOR * runs.error))
        step = length[:, None, None] * torch.cat((unit, -unit))
        return (z[:, None].double() + step).to(z.dtype)


def sweep(stages: list[Stage], most: int, push: Push) -> None:
    """Follow the attractors of every value to its neighbours, so that small basins are not lost between them."""
    puzzles = range(len(stages[0].runs))
    last = len(stages) - 1
    for i in range(last):
        stages[i + 1].visit(stages[i], i, [stages[i].representatives(p, most) for p in puzzles], push)
    for i in range(last, 0, -1):
        stages[i - 1].visit(stages[i], i, [stages[i].representatives(p, most) for p in puzzles], push)
    for i in range(last):  # attractors that only the way back has found
        late = [_not_followed(stages[i], stages[i + 1], i, p, most) for p in puzzles]
        stages[i + 1].visit(stages[i], i, late, push)


def _not_followed(here: Stage, there: Stage, place: int, puzzle: int, most: int) -> np.ndarray:
    """Return rows at those attractors of a puzzle from which no state was followed to the next value."""
    label = here.clusters(puzzle).label
    came = there.origin[puzzle]
    followed = np.unique(label[came[came[:, 0] == place, 1]])
    rows = here.representatives(puzzle, most)
    return rows[~np.isin(label[rows], followed)]


def followed_to(there: Stage, place: int, puzzle: int, label: np.ndarray, count: int) -> np.ndarray:
    """Return the attractor of another value at which the pushes of each attractor (count,) of value `place` end.

    Parameters
    ----------
    label
        Attractors (n,) of the rows of the puzzle at value `place`.

    Returns
    -------
    Number of the attractor there if all its pushes end at one, `SEVERAL` if at several, `NOWHERE` if most at none.
    """
    came, ends = there.origin[puzzle], there.clusters(puzzle).label
    target = np.full(count, NOWHERE)
    visitors = np.flatnonzero(came[:, 0] == place)
    for a in range(count):
        mine = ends[visitors[label[came[visitors, 1]] == a]]
        reached = np.unique(mine[mine >= 0])
        if len(reached) > 1:
            target[a] = SEVERAL
        elif len(reached) and 2 * (mine >= 0).sum() >= len(mine):
            target[a] = reached[0]
    return target


def match_states(stages: list[Stage], puzzle: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the branch of each attractor of a puzzle at each value, and where it goes at the next value.

    Two attractors belong to one branch if every push of each ends at the other under the other's map.
    """
    found = [stage.clusters(puzzle) for stage in stages]
    counts = [len(c.fewest) for c in found]
    branch = [np.arange(counts[0])]
    goes, total = [], counts[0]
    for i in range(len(stages) - 1):
        forward = followed_to(stages[i + 1], i, puzzle, found[i].label, counts[i])
        back = followed_to(stages[i], i + 1, puzzle, found[i + 1].label, counts[i + 1])
        mine = np.full(counts[i + 1], -1)
        for a in range(counts[i]):
            if forward[a] >= 0 and back[forward[a]] == a:
                mine[forward[a]] = branch[i][a]
        fresh = np.flatnonzero(mine < 0)
        mine[fresh] = total + np.arange(len(fresh))
        total += len(fresh)
        goes.append(np.array([mine[f] if f >= 0 else f for f in forward], int))
        branch.append(mine)
    return branch, [*goes, np.full(counts[-1], NOWHERE)]


def match_answers(stages: list[Stage], puzzle: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the same with attractors matched by their answers: a branch is an answer."""
    known: dict[int, int] = {}
    branch = []
    for stage in stages:
        found = stage.clusters(puzzle)
        codes = stage.runs[puzzle].code
        rows = [int((found.label == a).argmax()) for a in range(len(found.fewest))]
        branch.append(np.array([known.setdefault(int(codes[r]), len(known)) for r in rows], int))
    goes = [np.where(np.isin(a, b), a, NOWHERE) for a, b in pairwise(branch)]
    return branch, [*goes, np.full(len(branch[-1]), NOWHERE)]
