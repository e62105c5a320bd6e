"""Which trajectories ended at the same attractor (fixed point, cycle or recurrent set), with doubt counted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from eqrlab.attractors.ensemble.runs import Runs
from eqrlab.attractors.fates.clouds import APART, LEAST, apart
from eqrlab.attractors.fates.fate import CODE
from eqrlab.attractors.landscape.leaders import CYCLE, SET, Leaders, states_of

ESCAPES = 0.05  # share of runs seen to leave a set from which on it is no attractor
SIMILAR = 3.0  # median residuals within this factor may be of the same set


class Clusters(NamedTuple):
    """Attractors of one puzzle.

    Attributes
    ----------
    label
        Attractor of each run (n,), the most frequent first, -1: none.
    fewest, most
        Members of each attractor (A,) if every doubtful merge is undone, and if all runs that may belong to it do.
    doubtful
        Runs (n,) whose attractor is in doubt.
    alone
        Doubtful runs (n,) each of which may be at an attractor of its own that is not counted.
    dynamical
        For each attractor (A,), its number if only states are compared.
    recurrent
        Attractors (A,) that are chaotic or quasi-periodic sets, recognised from sampled states of runs on them.
    changing
        Attractors (A,) that are neither right nor wrong: such sets on which the answer does not stay the same, and
        cycles with right answers in a part of their period only.
    transient
        Runs (n,) on a recurrent set that other runs were seen to leave: they count as being at no attractor.
    """

    label: np.ndarray
    fewest: np.ndarray
    most: np.ndarray
    doubtful: np.ndarray
    alone: np.ndarray
    dynamical: np.ndarray
    recurrent: np.ndarray
    changing: np.ndarray
    transient: np.ndarray

    @property
    def ambiguous(self) -> int:
        """Number of runs whose attractor is in doubt."""
        return int(self.doubtful.sum())


def identify(runs: Runs) -> Clusters:
    """Cluster the runs of one puzzle that ended at an attractor.

    Two runs share a fixed point, or a small recurrent set of which only mean and spread are known, if their
    states are closer than the sum of their radii and their answers agree.  They share a cycle if every state of
    each is closer than that to a state of the other, and the periods agree.  They share another recurrent set
    if their sampled states mix, see `clouds`.  A radius is half the resolution plus three times the estimated
    error of the state.

    Notes
    -----
    Leaders are chosen by their error and, among equal errors, by the number of the restart, so that the result does not
    depend on the order of the rows, the batch size or the device.

    A pair is borderline if it is one to three radii apart; if a run is within reach of two leaders; if the distance is
    known only from sketches whose error could matter; if two cycles are as near as one but differ in period, or are
    known only to half their size; or if sampled states mix only in part.  If final states of settled runs were kept,
    their distances are computed in full.  The pairs that remain in doubt widen the intervals.

    A recurrent set that runs were seen to leave in the later half of their steps may not be an attractor: its runs are
    in doubt, and count as ending at none if more than one in twenty left.  A bounded run that does not show a set by
    itself joins, in doubt, a set with which its states mix.

    Cost: restarts x attractors distances of sketches.
    """
    sets, vague, transient = _on_sets(runs)
    rows = np.flatnonzero((runs.attracted | sets) & ~transient)
    label = np.full(len(runs), -1)
    doubtful, alone = np.zeros(len(runs), bool), np.zeros(len(runs), bool)
    if not len(rows):
        none = np.zeros(0, int)
        return Clusters(
            label, none, none, doubtful, alone, none, none.astype(bool), none.astype(bool), transient
        )
    one = runs.take(rows)
    codes = np.unique(one.code, return_inverse=True)[1]
    group = np.where(one.fate == CODE["periodic"], CYCLE, np.where(sets[rows], SET, codes))
    found = Leaders(one, group, vague[rows])
    number = _by_frequency(found.label, one.restart)
    order = np.argsort(number)
    label[rows], doubtful[rows], alone[rows] = number[found.label], found.doubtful, found.alone
    leader = np.array(found.leader)[order]
    places, reach = one.place[leader], found.radius[leader]
    same = cdist(places, places) <= reach[:, None] + reach
    same &= (group[leader] >= 0)[:, None] & (group[leader] >= 0)
    groups = connected_components(csr_array(same), directed=False)[1]
    recurrent = group[leader] == SET
    return Clusters(
        label, found.fewest[order], found.most[order], doubtful, alone, in_order(groups), recurrent,
        np.where(recurrent, ~_one_answer(runs, label, len(leader)), one.partly[leader]), transient,
    )  # fmt: skip


def _one_answer(runs: Runs, label: np.ndarray, count: int) -> np.ndarray:
    """Return the attractors (count,) at which all runs have one answer, constant over the later half."""
    kept = np.zeros(count, bool)
    for a in range(count):
        mine = label == a
        kept[a] = runs.steady[mine].all() and (runs.code[mine] == runs.code[mine][:1]).all()
    return kept


def _on_sets(runs: Runs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which runs (n,) are on recurrent sets that their sampled states show, and which of them are in doubt.

    Small recurrent sets with a constant answer are described by mean and spread if most of the runs are too short to
    show more; such runs are left out here, unless they are on a set that other runs show.

    Returns
    -------
    shown, vague, transient
        (n,) bool; transient: on a set that too many runs were seen to leave.
    """
    shown, vague, transient = runs.recurs.copy(), np.zeros(len(runs), bool), np.zeros(len(runs), bool)
    if not shown.any():
        return shown, vague, transient
    small = np.flatnonzero(runs.fate == CODE["recurrent"])
    if len(small):
        codes = np.unique(runs.code[small], return_inverse=True)[1]
        label = Leaders(runs.take(small), codes).label
        for a in np.unique(label):
            shown[small[label == a]] &= 2 * shown[small[label == a]].sum() >= (label == a).sum()
    rows = np.flatnonzero(shown)
    if not len(rows):
        return shown, vague, transient
    found = Leaders(runs.take(rows), np.full(len(rows), SET))
    others = np.flatnonzero(_bounded(runs) & ~shown)
    for a, lead in enumerate(rows[found.leader]):
        members = rows[found.label == a]
        before = runs.before[members]
        left = runs.late & (runs.before >= before.min() / SIMILAR) & (runs.before <= before.max() * SIMILAR)
        finest = runs.resolution[lead] * runs.scale[lead]
        mine = states_of(runs.orbit[lead])
        joining = [apart(mine, states_of(runs.orbit[row]), finest) <= APART for row in others]
        members = np.concatenate([members, others[np.array(joining, bool)]])
        leaves = left.sum() > ESCAPES * (left.sum() + len(members))
        shown[members], transient[members] = not leaves, leaves
        vague[members] |= left.any() | ~runs.recurs[members]
    return shown & ~transient, vague, transient


def _bounded(runs: Runs) -> np.ndarray:
    """Return which runs (n,) stayed bounded and moving, with enough states to compare."""
    # a chaotic run that is near a saddle when it ends seems to have settled just then, or to be on its way somewhere
    moving = np.isin(runs.fate, [CODE[f] for f in ("recurrent", "wandering", "unfinished", "settled")])
    return moving & (np.isfinite(runs.orbit).all(2).sum(1) >= LEAST)


def in_order(groups: np.ndarray) -> np.ndarray:
    """Renumber labels (A,) in the order of their first appearance.

    Examples
    --------
    >>> in_order(np.array([7, 2, 7])).tolist()
    [0, 1, 0]
    """
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)]


def _by_frequency(label: np.ndarray, restart: np.ndarray) -> np.ndarray:
    """Return the new number of each label 0, 1, ...: the most frequent first, ties by their first restart."""
    counts = np.bincount(label)
    first = np.full(len(counts), np.iinfo(np.int64).max)
    np.minimum.at(first, label, restart)
    order = np.lexsort((first, -counts))
    rank = np.empty(len(counts), int)
    rank[order] = np.arange(len(counts))
    return rank


def representatives(runs: Runs, label: np.ndarray, most: int) -> np.ndarray:
    """Return one row at each of the largest attractors, up to a number: the best converged run that ended there."""
    rows = []
    for a in range(min(most, int(label.max()) + 1)):
        members = np.flatnonzero(label == a)
        rows.append(members[np.lexsort((runs.restart[members], runs.error[members]))[0]])
    return np.array(rows, int)
