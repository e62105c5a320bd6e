"""Diagnoses of planted landscapes, for tests of what is said and shown of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab import attractors as at
from eqrlab.core import MapSystem
from eqrlab.datasets import oracle
from tests.zoo import contraction, narrow_in_sea, normal_start, puzzles, selector

Groups = dict[str, xr.Dataset]


def groups_of(ensemble: xr.Dataset, name: str = "planted", task: str = "unknown") -> Groups:
    """Return the groups of an archive for an ensemble; alignment and modes only where correctness is known."""
    ensemble.attrs |= {"name": name, "task": task}
    groups = {"ensemble": ensemble, "basins": at.basins(ensemble)}
    if "correct" in ensemble:
        groups |= {"alignment": at.alignment(ensemble), "modes": at.modes(ensemble)}
    return groups


def planted(
    system: MapSystem,
    labels: list[list[int]] | None,
    *,
    count: int | None = None,
    restarts: int = 32,
    depth: int = 40,
    name: str = "planted",
    keep: tuple[str, ...] = ("summary", "path"),
) -> Groups:
    """Diagnose a system of the zoo on puzzles 0, 1, ... with one answer token each."""
    inputs = puzzles(len(labels) if labels is not None else count or 1)
    truth = None if labels is None else torch.tensor(labels)
    ensemble = at.sample(system, inputs, labels=truth, restarts=restarts, depth=depth, keep=keep)
    return groups_of(ensemble, name)


@cache
def mode_a() -> Groups:
    return planted(selector([[0.0]] * 4), [[5]] * 4, name="hopeless")


@cache
def mode_b() -> Groups:
    return planted(selector([[0.0], [0.3], [-0.2], [0.9]]), [[2]] * 4, name="coexisting")


@cache
def mode_c() -> Groups:
    return planted(narrow_in_sea(1.0), [[3]] * 4, restarts=64, depth=60, name="narrow")


@cache
def mode_d() -> Groups:
    return planted(selector([[-2.8]] * 4), [[2]] * 4, restarts=64, name="broad")


@cache
def unfinished() -> Groups:
    return planted(contraction(1 - 1e-3), [[2]] * 4, name="unfinished")


@cache
def mixed() -> Groups:
    """Every one of modes a, b and d, on 8 puzzles."""
    offsets = [-2.8, -2.8, -2.9, 0.0, 0.3, -0.4, 1.0, 0.1]
    labels = [[2]] * 6 + [[5]] * 2
    return planted(selector([[b] for b in offsets]), labels, restarts=64, name="mixed")


def sudoku_solution(side: int) -> np.ndarray:
    """Return one solved board of side 4, 6 or 9 as tokens (L,)."""
    height = 3 if side == 9 else 2
    row, column = np.divmod(np.arange(side * side), side)
    return (side // height * (row % height) + row // height + column) % side + 2


def boards(
    solution: np.ndarray,
    wrong: np.ndarray,
    inputs: np.ndarray,
    *,
    task: str,
    labelled: bool = True,
    offset: float = 0.0,
) -> Groups:
    """Diagnose a decoy: the upper attractor decodes to the solution, the lower one to a wrong answer."""
    right, other = torch.as_tensor(solution), torch.as_tensor(wrong)

    def decode(z: Tensor, x: Tensor) -> Tensor:
        return torch.where(z[:, :1] > x, right, other)

    system = MapSystem(
        lambda z, x: x + torch.tanh(2 * (z - x)) * torch.tensor([1.0, 0.2], dtype=torch.float64),
        normal_start(2),
        decode,
        lambda tokens: torch.full((len(tokens), 1), offset, dtype=torch.float64),
    )
    given = torch.as_tensor(inputs)
    labels = right.expand(len(given), -1) if labelled else None
    judge = None if labelled else oracle(task)
    ensemble = at.sample(
        system, given, labels=labels, oracle=judge, restarts=24, depth=40, keep=("summary", "path")
    )
    return groups_of(ensemble, f"decoy {task}", task)


@cache
def sudoku(side: int = 6, labelled: bool = True) -> Groups:
    """Two puzzles on one board; the wrong attractor has its first two cells swapped.  Judged by labels or oracle."""
    solution = sudoku_solution(side)
    wrong = solution.copy()
    wrong[[0, 1]] = wrong[[1, 0]]
    keep = np.random.default_rng(0).random((2, len(solution))) < 0.4
    keep[:, :2] = False
    return boards(solution, wrong, np.where(keep, solution, 1), task=f"sudoku{side}", labelled=labelled)


@cache
def maze() -> Groups:
    """Two mazes of side 7 with one corridor; the wrong attractor leaves a gap in the path."""
    puzzle = np.ones((7, 7), int)
    puzzle[1, 1:6] = puzzle[1:6, 5] = 2
    puzzle[1, 1], puzzle[5, 5] = 3, 4
    solution = np.where(puzzle == 2, 5, puzzle)
    wrong = solution.copy()
    wrong[1, 3], wrong[5, 1] = 2, 5
    inputs = np.stack([puzzle.ravel(), puzzle.T.ravel()])
    return boards(solution.ravel(), wrong.ravel(), inputs, task="maze7")


def rotor_of_one_answer() -> MapSystem:
    """An irrational rotation that decodes to token 2 on one half plane: right now and then, never at rest."""
    turn = torch.tensor([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    return MapSystem(lambda z, x: z @ turn.T, normal_start(2), lambda z, x: (z[:, :1] > 0).long() + 1)


def quadratic() -> MapSystem:
    """z -> 1000 z^2: some starts settle at 0, the others overflow."""
    return MapSystem(lambda z, x: 1000 * z * z, normal_start(1), lambda z, x: torch.full((len(z), 1), 2))


@cache
def nonfinite() -> Groups:
    """All runs right, some at rest, some overflowed."""
    return planted(quadratic(), [[2]] * 2, depth=20)


DEGENERATE: dict[str, Callable[[], Groups]] = {
    "all right": cache(lambda: planted(contraction(0.5), [[2]] * 3)),
    "all wrong": cache(lambda: planted(contraction(0.5), [[5]] * 3)),
    "one puzzle": cache(lambda: planted(selector([[0.2]]), [[2]])),
    "one restart": cache(lambda: planted(selector([[0.2]] * 3), [[2]] * 3, restarts=1)),
    "one of everything": cache(lambda: planted(selector([[0.2]]), [[2]], restarts=1, depth=1)),
    "depth 1": cache(lambda: planted(selector([[0.2]] * 3), [[2]] * 3, depth=1)),
    "no labels": cache(lambda: planted(selector([[0.2]] * 3), None, count=3)),
    "no attractors": cache(lambda: planted(contraction(1 - 1e-3), [[2]] * 3, depth=20)),
    "nonfinite": nonfinite,
    "240 puzzles": cache(
        lambda: planted(selector([[float(b)] for b in np.linspace(-2.5, 2.5, 240)]), [[2]] * 240, restarts=16)
    ),
    "many attractors": cache(
        lambda: planted(selector([[0.0] * 11] * 2), [[2] * 11] * 2, restarts=900, depth=30)
    ),
    "no path kept": cache(lambda: planted(selector([[0.2]] * 3), [[2]] * 3, keep=("summary",))),
}
