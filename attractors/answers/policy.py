"""Races between the restarts of a puzzle: which runs stop, are dropped or started, and when an answer is chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eqrlab.attractors.answers.selectors import HALT, WINDOW
from eqrlab.attractors.ensemble.arguments import is_whole, require_integers

STOPS = ("halt", "settled", "both", "either", "never")
SELECTS = ("majority", "residual", "halting")
KEEPS = ("residual", "halting")
ENDS = ("unused", "accepted", "exhausted", "dropped", "stopped")
REASONS = ("agreed", "decided", "accepted", "exhausted")
_ACCEPTED, _EXHAUSTED, _DROPPED, _STOPPED = range(1, 5)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When runs stop, which restarts continue, and when a puzzle has its answer.

    Attributes
    ----------
    restarts, depth
        Largest number of restarts B of a puzzle, and of outer steps D of each.
    stop
        Condition on which a run stops and its answer is accepted.  "halt": its halting logit exceeds `halt_above`
        (adaptive computation).  "settled": its relative update stayed below `settled_below`, with the answer unchanged,
        for `window` steps.  "both" or "either" of them; "never": only the depth stops a run.
    halt_above, settled_below, window
        See `stop`.  The relative update is ||z_t - z_{t-1}|| / ||z_t|| as iterated, noise included: it costs nothing.
    min_steps
        Least outer steps of an accepted run.
    schedule
        Pairs (step of the puzzle, width): from that step on, `width` restarts run in parallel.  A smaller width drops
        the worst runs, a larger one starts fresh restarts, and a run that ended is replaced at once as long as restarts
        are left.  Empty: all from the start.  ((0, 1),) tries one restart after another; `halving` returns brackets.
    keep_by
        Score by which runs are dropped: those with the smallest "residual" (relative update, mean of the last 3 steps)
        or the highest "halting" logit stay.
    agree
        The puzzle ends as soon as this many accepted runs have the same answer; 1: with the first; None: never so.
    commit
        Share of the open cells that a run which ends without being accepted writes into the puzzle as clues, the cells
        of which it is surest; the restart that replaces it starts from that puzzle.  This is done once: a run on such a
        puzzle passes on no clues.  0: never.  `adaptive` needs the legal clues, and `schedule` must leave restarts.
    select
        How the answer of a puzzle that ends otherwise is chosen, among its accepted runs, or among the exhausted ones
        if none was accepted: "majority" (ties to the first restart), "residual", "halting". Majority ends a puzzle as
        soon as the remaining runs cannot change it.

    Raises
    ------
    ValueError
        For a value outside its range, naming it.

    Examples
    --------
    >>> Policy(restarts=8, depth=64, schedule=halving(8, 4), agree=1).schedule
    ((0, 8), (4, 4), (8, 2), (16, 1))
    """

    restarts: int = 1
    depth: int = 64
    stop: str = "halt"
    halt_above: float = HALT
    settled_below: float = 1e-2
    window: int = 1
    min_steps: int = 1
    schedule: tuple[tuple[int, int], ...] = ()
    keep_by: str = "residual"
    agree: int | None = None
    select: str = "majority"
    commit: float = 0.0

    def __post_init__(self) -> None:
        for name, options in (("stop", STOPS), ("select", SELECTS), ("keep_by", KEEPS)):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} {getattr(self, name)!r} unknown; choose from {', '.join(options)}")
        for name in ("restarts", "depth", "window", "min_steps", "agree"):
            if getattr(self, name) is not None:
                require_integers(**{name: getattr(self, name)})
        if not self.settled_below > 0:
            raise ValueError(f"settled_below must be > 0, got {self.settled_below}")
        if not 0 <= self.commit <= 1:
            raise ValueError(f"commit must be from 0 to 1, got {self.commit}")
        if self.commit and (self.stop == "never" or self.lanes >= self.restarts):
            raise ValueError(
                "commit needs runs that can be accepted and restarts that follow: a stop other than 'never', and a "
                f"schedule narrower than the {self.restarts} restarts, such as ((0, {max(1, self.restarts // 2)}),)"
            )
        steps = [step for step, _ in self.schedule]
        if self.schedule and (steps[0] != 0 or steps != sorted(set(steps))):
            raise ValueError(f"schedule must begin at step 0 and its steps grow, got {self.schedule}")
        if any(not is_whole(v) or v < 0 for pair in self.schedule for v in pair) or any(
            width < 1 for _, width in self.schedule
        ):
            raise ValueError(f"schedule must be pairs (step >= 0, width >= 1), got {self.schedule}")

    @property
    def needs_halting(self) -> bool:
        """Whether a halting logit is looked at."""
        return self.stop in ("halt", "both", "either") or "halting" in (self.select, self.keep_by)

    def cost(self, name: str) -> tuple[int, int]:
        """Return least and most outer steps that a puzzle can take: "nfe" of all its runs, "latency" in sequence."""
        most = self.depth * (self.restarts if self.schedule or name == "nfe" else 1)
        return most if self.stop == "never" and not self.schedule else self.min_steps, most

    @property
    def lanes(self) -> int:
        """Most restarts that ever run side by side."""
        return min(self.restarts, max((width for _, width in self.schedule), default=self.restarts))

    def width(self, clock: np.ndarray) -> np.ndarray:
        """Return how many restarts run side by side after so many steps of the puzzle."""
        steps, widths = zip(*(self.schedule or ((0, self.restarts),)), strict=True)
        return np.minimum(np.array(widths)[np.searchsorted(steps, clock, "right") - 1], self.restarts)


def halving(
    restarts: int, first: int, *, keep: float = 0.5, growth: float = 2.0
) -> tuple[tuple[int, int], ...]:
    """Return the schedule of successive halving: drop the worst half after `first` steps, again at twice that, ...

    Parameters
    ----------
    restarts
        Restarts at the start.
    first
        Step of the puzzle after which restarts are dropped for the first time.
    keep
        Share that goes on.
    growth
        Factor between the steps of successive cuts.

    Raises
    ------
    ValueError
        For values outside their range.

    References
    ----------
    Jamieson & Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization".
    """
    if restarts < 1 or first < 1 or not 0 < keep < 1 or not growth > 1:
        raise ValueError(
            f"halving needs restarts >= 1, first >= 1, 0 < keep < 1 and growth > 1, got {restarts}, {first}, {keep}, "
            f"{growth}"
        )
    pairs, step, width = [(0, restarts)], float(first), restarts
    while width > 1:
        width = max(1, int(width * keep))
        pairs.append((max(round(step), pairs[-1][0] + 1), width))
        step *= growth
    return tuple(pairs)


class Race:
    """The progress of many puzzles under one policy; each puzzle has lanes, in which its restarts advance together.

    All decisions of a puzzle depend only on its own runs, not on other puzzles or the order in which puzzles advance.

    Attributes
    ----------
    restart, step
        (puzzle, lane): the restart that runs there (-1 none), and the outer steps it has made.
    clock, spent
        (puzzle,): steps of the puzzle, that is its latency, and outer steps of all its runs, that is its NFE.
    end, used
        (puzzle, restart): how each ended, by its place in `ENDS`, and the outer steps it made.
    chosen, reason
        (puzzle,): the restart whose answer is chosen, -1 while undecided, and why then, by its place in `REASONS`.
    """

    def __init__(self, policy: Policy, puzzles: int):
        self.policy = policy
        lanes, runs = (puzzles, policy.lanes), (puzzles, policy.restarts)
        self.restart, self.step = np.full(lanes, -1), np.zeros(lanes, int)
        self._streak, self._code = np.zeros(lanes, int), np.zeros(lanes, np.uint64)
        self._recent = np.full((*lanes, WINDOW), np.nan)
        self.launched, self.clock, self.spent = (np.zeros(puzzles, int) for _ in range(3))
        self.end, self.used = np.zeros(runs, np.int8), np.zeros(runs, int)
        self._vote, self._score = np.zeros(runs, np.uint64), np.full(runs, np.inf)
        self.chosen, self.reason = np.full(puzzles, -1), np.zeros(puzzles, np.int8)
        self._launch(np.arange(puzzles))

    def _launch(self, ids: np.ndarray) -> None:
        """Fill the lanes of puzzles up to their width with fresh restarts."""
        free = self.restart[ids] < 0
        wanted = self.policy.width(self.clock[ids]) - (~free).sum(1)
        wanted = np.minimum(wanted, self.policy.restarts - self.launched[ids])
        rank = free.cumsum(1)
        place = free & (rank <= wanted[:, None])
        i, lane = np.nonzero(place)
        self.restart[ids[i], lane] = (self.launched[ids][:, None] + rank - 1)[i, lane]
        self.step[ids[i], lane] = self._streak[ids[i], lane] = 0
        self._recent[ids[i], lane] = np.nan
        self.launched[ids] += place.sum(1)

    def advance(self, ids: np.ndarray, update: np.ndarray, halt: np.ndarray, code: np.ndarray) -> np.ndarray:
        """Record one step of every run of some puzzles, decide, and start new runs.

        Parameters
        ----------
        ids
            (n,) puzzles that are undecided.
        update, halt, code
            (n, lane) relative update, halting logit, and a number that is equal for equal answers, of the step just
            made; whatever they are in lanes without a run.

        Returns
        -------
        numpy.ndarray
            (n, lane) the restart that ended here with an answer that may be chosen, -1 none.
        """
        p, running = self.policy, self.restart[ids] >= 0
        self.clock[ids] += 1
        self.spent[ids] += running.sum(1)
        step = self.step[ids] + running
        update = np.where(np.isfinite(update), update, np.inf)
        calm = (update < p.settled_below) & (code == self._code[ids]) & (step > 1)
        streak = np.where(calm, self._streak[ids] + 1, 0)
        recent = np.concatenate([self._recent[ids][:, :, 1:], update[:, :, None]], 2)
        self.step[ids], self._streak[ids], self._code[ids], self._recent[ids] = step, streak, code, recent
        halts, settled = halt > p.halt_above, streak >= p.window
        rule = {"halt": halts, "settled": settled, "both": halts & settled, "either": halts | settled}
        stops = rule.get(p.stop, np.zeros_like(running)) & (step >= p.min_steps)
        accepted, full = running & stops, running & ~stops & (step >= p.depth)
        moved = np.nan_to_num(np.nanmean(np.where(running[..., None], recent, 0.0), 2), nan=np.inf)
        sure = np.where(np.isnan(halt), np.inf, -halt)
        code_full = _ACCEPTED if p.stop == "never" else _EXHAUSTED
        score = sure if p.select == "halting" else moved
        for mask, how in ((accepted, _ACCEPTED), (full, code_full)):
            self._finish(ids, mask, how, score)
        ended = np.where(accepted | full, self.restart[ids], -1)
        self.restart[ids] = np.where(accepted | full, -1, self.restart[ids])
        self._decide(ids[(accepted | full).any(1)])
        left = self.chosen[ids] < 0
        self._drop(ids[left], (sure if p.keep_by == "halting" else moved)[left])
        self._launch(ids[left])
        self._conclude(ids[left][(self.restart[ids[left]] < 0).all(1)])
        return ended

    def _finish(self, ids: np.ndarray, mask: np.ndarray, how: int, score: np.ndarray | None = None) -> None:
        i, lane = np.nonzero(mask)
        row, restart = ids[i], self.restart[ids[i], lane]
        self.end[row, restart], self.used[row, restart] = how, self.step[row, lane]
        if score is not None:
            self._vote[row, restart], self._score[row, restart] = self._code[row, lane], score[i, lane]

    def _counts(self, ids: np.ndarray, how: int) -> np.ndarray:
        """Return, for each run that ended so, how many runs that did have its answer, (n, restart); 0 for others."""
        pool = self.end[ids] == how
        same = self._vote[ids][:, :, None] == self._vote[ids][:, None, :]
        return (same & pool[:, None, :]).sum(2) * pool

    def _decide(self, ids: np.ndarray) -> None:
        """Choose the answer of puzzles where enough runs agree, or the majority cannot change any more."""
        counts = self._counts(ids, _ACCEPTED)
        leader, most = counts.argmax(1), counts.max(1, initial=0)
        agreed = np.zeros(len(ids), bool) if self.policy.agree is None else most >= self.policy.agree
        decided = np.zeros(len(ids), bool)
        if self.policy.select == "majority":
            vote = self._vote[ids]
            other = np.where(vote == vote[np.arange(len(ids)), leader][:, None], 0, counts).max(1, initial=0)
            to_come = (self.restart[ids] >= 0).sum(1) + self.policy.restarts - self.launched[ids]
            decided = most > other + to_come
        self._choose(ids[agreed], leader[agreed], "agreed")
        self._choose(ids[decided & ~agreed], leader[decided & ~agreed], "decided")

    def _choose(self, ids: np.ndarray, restart: np.ndarray, reason: str) -> None:
        self._finish(ids, self.restart[ids] >= 0, _STOPPED)
        self.restart[ids] = -1
        self.chosen[ids], self.reason[ids] = restart, REASONS.index(reason)

    def _drop(self, ids: np.ndarray, score: np.ndarray) -> None:
        """Drop the worst runs beyond the width."""
        running = self.restart[ids] >= 0
        surplus = running.sum(1) - self.policy.width(self.clock[ids])
        if not (surplus > 0).any():
            return
        order = np.lexsort((self.restart[ids], np.where(running, score, np.inf), ~running), axis=1)
        rank = np.argsort(order, axis=1)
        worst = running & (rank >= (running.sum(1) - np.maximum(surplus, 0))[:, None])
        self._finish(ids, worst, _DROPPED)
        self.restart[ids] = np.where(worst, -1, self.restart[ids])

    def _conclude(self, ids: np.ndarray) -> None:
        """Choose the answer of puzzles all of whose restarts have ended."""
        for how, reason in ((_ACCEPTED, "accepted"), (_EXHAUSTED, "exhausted")):
            left = ids[self.chosen[ids] < 0]
            left = left[(self.end[left] == how).any(1)]
            if self.policy.select == "majority":
                best = self._counts(left, how).argmax(1)
            else:
                pool = self.end[left] == how
                best = np.lexsort((np.where(pool, self._score[left], np.inf), ~pool), axis=1)[:, 0]
            self._choose(left, best, reason)
