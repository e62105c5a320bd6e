"""Whether perturbed states come back to the attractor at which the unperturbed one ends."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.options import AnswerOptions, part_of
from eqrlab.attractors.ensemble.sizes import own_lengths
from eqrlab.attractors.ensemble.states import Points
from eqrlab.attractors.fates.fate import CODE, Tolerances
from eqrlab.attractors.landscape.identify import identify
from eqrlab.attractors.perturbation.follow import Ends, Follower, FollowOptions, came_home

RETURNED, LEFT, UNDECIDED = 0, 1, 2
NARROWEST = 4 * float(np.finfo(float).eps)  # relative width of a bracket of lengths that cannot be halved
DEEPER = 4  # unfinished states are followed so many times further


class ReturnOptions(AnswerOptions, total=False):
    """Options of analyses that follow perturbed states until they are back or gone.

    depth
        Largest number of outer steps of a perturbed state, noise off, default 256; four times as many for states that
        are then unfinished.
    escape
        A state beyond this many times the largest norm of the perturbed states has diverged; default 1e6.
    tolerances
        Thresholds of the fates.
    """

    depth: int
    escape: float
    tolerances: Tolerances | None


def follower_of(points: Points, options: ReturnOptions, longest: float) -> Follower:
    """Return what follows states perturbed by at most this share of their own length."""
    given: FollowOptions = {
        **part_of(options, FollowOptions), "identifiers": points.identifiers, "dtype": points.z.dtype,
    }  # fmt: skip
    follower = Follower(
        points.system, points.tokens, depth=options.get("depth", 256), judge=points.judge, **given
    )
    size = float(np.nan_to_num(own_lengths(points, required=False)).max())
    follower.bound = options.get("escape", 1e6) * size * (1 + longest) if size else np.inf
    return follower


class Homes:
    """The attractors at which the states of some points end, unperturbed.

    Attributes
    ----------
    ends
        Of the rows of `points`; rows that are gaps hold those of some other row.
    settled
        (n,) bool: present, and its state ended at an attractor.
    label
        (n,) number of that attractor in its puzzle, -1: none.
    targets
        (puzzles, attractors, d) a state at each attractor of a puzzle, NaN beyond its last.
    """

    def __init__(self, follower: Follower, points: Points, more: Points | None = None):
        self.follower, self.per = follower, points.shape[1]
        self.deeper = copy.copy(follower)
        self.deeper.depth = DEEPER * follower.depth
        every = [points] if more is None else [points, more]
        ends = [self._follow(p) for p in every]
        self.ends, present = ends[0], points.present.cpu().numpy()
        flat = [p.z.flatten(1) for p in every]
        self.label = np.full(len(points.z), -1)
        found: list[list[Tensor]] = []
        for puzzle in range(points.shape[0]):
            rows = [np.arange(puzzle * p.shape[1], (puzzle + 1) * p.shape[1]) for p in every]
            rows = [r[p.present.cpu().numpy()[r]] for r, p in zip(rows, every, strict=True)]
            z = torch.cat([f[r] for f, r in zip(flat, rows, strict=True)])
            if not len(z):
                found.append([])
                continue
            label = identify(Ends.join([e.take(r) for e, r in zip(ends, rows, strict=True)]).runs()).label
            self.label[rows[0]] = label[: len(rows[0])]
            found.append([z[int((label == a).argmax())] for a in range(int(label.max()) + 1)])
        homes = self.ends.runs()
        homes = dataclasses.replace(homes, restart=np.zeros(len(homes), int))
        self.runs = [homes.take(np.array([i])) for i in range(len(homes))]
        self.settled = present & (self.label >= 0)
        most = max(1, max(map(len, found)))
        self.targets = points.z.new_full((points.shape[0], most, points.size), torch.nan)
        for puzzle, states in enumerate(found):
            for a, state in enumerate(states):
                self.targets[puzzle, a] = state

    def _follow(self, points: Points) -> Ends:
        """Follow all rows; gaps are replaced by a present row, whose results are not used."""
        return self.ends_of(points.filled(), np.arange(len(points.z)) // points.shape[1])

    def ends_of(self, z: Tensor, puzzle: np.ndarray) -> Ends:
        """Follow states to their ends, unfinished ones further."""
        ends = self.follower(z, puzzle)
        late = np.flatnonzero(ends.fate == CODE["unfinished"])
        if not len(late):
            return ends
        before = self.deeper.evaluations
        further = self.deeper(z[torch.as_tensor(late)], puzzle[late])
        self.follower.evaluations += self.deeper.evaluations - before
        order = np.arange(len(ends))
        order[late] = len(ends) + np.arange(len(late))
        return Ends.join([ends, further]).take(order)

    def returns(self, z: Tensor, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Follow perturbed states of these rows; return their outcome, and whether they have the unperturbed answer.

        Returns
        -------
        (n,) `RETURNED`, `LEFT` or `UNDECIDED` (unfinished at four times the depth), and (n,) bool.
        """
        ends = self.ends_of(z, row // self.per)
        fate = np.where(ends.fate == CODE["unfinished"], UNDECIDED, LEFT)
        runs = ends.runs(1)
        for home in np.unique(row):
            mine = np.flatnonzero(row == home)
            back = came_home(runs.take(mine), self.runs[home])
            fate[mine[back]] = RETURNED
        return fate, ends.code == self.ends.code[row]
