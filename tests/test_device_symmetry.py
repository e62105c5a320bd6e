"""Symmetries drawn with torch: legal, uniform, the same for puzzle and solution, and the same for one seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eqrlab.datasets import build, fingerprint, oracle
from eqrlab.datasets.registry.lookup import device_augmentation
from eqrlab.datasets.registry.task import Task


@pytest.mark.parametrize("task", ["sudoku4", "sudoku6", "sudoku9", "maze9"])
def test_disguises_are_solved_by_the_disguised_solution_and_keep_the_fingerprint(task):
    puzzles = build(task, 4, "easy" if task[0] == "s" else None, seed=3)
    inputs, labels = (torch.from_numpy(np.repeat(a, 25, axis=0)) for a in (puzzles.inputs, puzzles.labels))
    draw = device_augmentation(task)
    one, solved = draw(inputs, labels, torch.Generator().manual_seed(1))
    assert oracle(task)(one, solved).all() and one.dtype == torch.long
    assert (fingerprint(task, one.numpy()) == fingerprint(task, inputs.numpy())).all()
    assert len(torch.unique(one, dim=0)) > (90 if task[0] == "s" else 15)
    again, _ = draw(inputs, labels, torch.Generator().manual_seed(1))
    assert torch.equal(one, again)
    assert torch.equal(inputs, torch.from_numpy(np.repeat(puzzles.inputs, 25, axis=0)))


@pytest.mark.parametrize(("task", "reached"), [("sudoku9", 81), ("sudoku6", 36), ("maze7", None)])
def test_a_cell_goes_to_every_cell_that_a_symmetry_can_take_it_to_equally_often(task, reached):
    side = int(task[-1])
    length, n = side * side, 40_000
    marked = torch.ones(n, length, dtype=torch.long)
    marked[:, 1] = 2  # row 1, column 2
    _, moved = device_augmentation(task)(marked.clone(), marked, torch.Generator().manual_seed(0))
    digit = moved.max(dim=1).values
    places = torch.bincount((moved == digit[:, None]).long().argmax(1), minlength=length).double()
    if task[0] == "s":
        assert torch.equal(torch.unique(digit), torch.arange(2, side + 2))
    seen = places > 0
    assert int(seen.sum()) == (reached or 8)
    expected = n / int(seen.sum())
    chi2 = ((places[seen] - expected) ** 2 / expected).sum().item()
    freedom = int(seen.sum()) - 1
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5


def test_pads_and_blanks_stay():
    tokens = torch.zeros(50, 81, dtype=torch.long)
    tokens[:, 40:] = 1
    moved, _ = device_augmentation("sudoku9")(tokens, tokens, torch.Generator().manual_seed(0))
    assert ((moved == 0).sum(1) == 40).all() and ((moved == 1).sum(1) == 41).all()


def test_a_task_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="task 'chess' unknown"):
        device_augmentation("chess")


def test_symmetries_of_arrays_alone_are_drawn_by_the_generator_too():
    def turned(inputs, labels, rng):
        back = rng.random((len(inputs), 1)) < 0.5
        return np.where(back, inputs[:, ::-1], inputs), np.where(back, labels[:, ::-1], labels)

    task = Task(name="line", vocab_size=5, board=(1, 4), augment=turned)
    assert Task(name="line", vocab_size=5, board=(1, 4)).device_augment is None
    tokens, draw = torch.tensor([[1, 2, 3, 4]] * 50), task.device_augment("cpu")
    one, solved = draw(tokens, tokens, torch.Generator().manual_seed(1))
    again, _ = draw(tokens, tokens, torch.Generator().manual_seed(1))
    assert torch.equal(one, again) and torch.equal(one, solved) and len(one.unique(dim=0)) == 2
