"""Models, maps, modules and puzzles show themselves: short, escaped, cheap, and never with an exception."""

import re
import time

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.core import MapSystem, from_module, load
from eqrlab.core.models.puzzle_table import PuzzleTable
from eqrlab.core.models.reasoner import Reasoner
from eqrlab.datasets import Draw, PuzzleSet, bundled

HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J\u202e" + "a" * 5000


def module():
    return from_module(
        torch.nn.GRUCell(4, 8),
        step=lambda cell, h, x: cell(x, h),
        carry=lambda cell, x, generator: (
            torch.randn(len(x), 8, generator=generator),
            torch.zeros(len(x), 2, 3),
        ),
        name="my cell",
    )


def halving(z, x):
    return z / 2


def test_a_model_says_its_family_task_size_state_and_file():
    model = load("eqr-sudoku6")
    told = repr(model)
    for part in (
        "EqR",
        "sudoku6",
        "77,954",
        "2 x 36 x 64",
        "4,608 numbers",
        "eqr-sudoku6.safetensors",
        "07320abc4681",
    ):
        assert part in told and part in model._repr_html_()
    assert told.count("\n") <= 5
    assert "<summary>configuration</summary>" in model._repr_html_() and "train.lr" in model._repr_html_()
    assert "not from a file" in repr(type(model)(model.config, "sudoku6"))


def test_a_map_names_its_functions():
    told = repr(MapSystem(halving, lambda x, g: torch.zeros(len(x), 1)))
    assert (
        "halving" in told and re.search(r"lambda, line \d+ of test_shown.py", told) and "the token 0" in told
    )


def test_a_module_says_its_carry_once_a_start_is_drawn():
    system = module()
    assert "not known before a start is drawn" in repr(system)
    system.initial(torch.zeros(3, 4), torch.Generator())
    assert "8 + 2 x 3" in repr(system) and "14 numbers" in repr(system) and "my cell" in system._repr_html_()


def test_a_run_says_in_a_few_lines_what_is_run():
    run = at.Run.of(load("eqr-sudoku6"), bundled("sudoku6").inputs, restarts=4, depth=8)
    assert repr(run).splitlines() == [
        "Run, for `sample` and the analyses after it",
        "  system   EqR, a model of family eqr for sudoku6",
        "  puzzles  500 of 36 tokens, answers not judged",
        "  runs     4 restarts of each, depth 8, noise 0.01, seed 0",
        "  starts   restart law of the system",
        "  kept     summary",
    ]
    assert "<table" in run._repr_html_() and "Run" in repr(at.Run.__new__(at.Run))


def test_puzzles_are_counted_and_the_first_are_drawn():
    puzzles = bundled("sudoku6")
    assert repr(puzzles).startswith("PuzzleSet of sudoku6: 500 puzzles with solutions\n")
    assert "easy 125" in repr(puzzles) and puzzles._repr_html_().count('<table class="board') == 4
    assert (
        "1 puzzle " in repr(puzzles.take([0])) == repr(puzzles.take(0))
        and puzzles.take([])._repr_html_().count('<table class="board') == 0
    )
    assert "<svg" in bundled("maze9")._repr_html_()
    drawn = PuzzleSet(puzzles.inputs[:2], None, "sudoku6", draw=Draw(2, 3, 500))
    assert "2 of 500, seed 3" in repr(drawn) and "without solutions" in repr(drawn)
    assert "drawn" in repr(PuzzleSet(puzzles.inputs[:2], None, "sudoku6", draw=Draw(2, 3)))


def hostile_things():
    model = load("eqr-sudoku6")
    model.task, model.provenance = HOSTILE, {HOSTILE: {HOSTILE: [HOSTILE]}, "checkpoint": HOSTILE}
    yield model
    system = module()
    system.name = system.task = HOSTILE
    yield system
    step = lambda z, x: z
    step.__qualname__ = HOSTILE
    yield MapSystem(step, step)
    tokens = np.zeros((2, 36), int)
    yield PuzzleSet(tokens, None, "sudoku6", {"difficulty": (HOSTILE, "b"), HOSTILE: ("a", "b")}, HOSTILE)


@pytest.mark.parametrize("thing", list(hostile_things()), ids=lambda thing: type(thing).__name__)
def test_hostile_names_are_escaped_and_cut(thing):
    told, html = repr(thing), thing._repr_html_()
    assert "<img" not in html and "\x1b" not in told + html and "\u202e" not in told + html
    assert max(map(len, told.splitlines())) < 150 and len(html) < 30_000


@pytest.mark.parametrize("kind", [Reasoner, MapSystem, PuzzleSet, type(module())])
def test_a_half_built_object_shows_itself_all_the_same(kind):
    thing = kind.__new__(kind)
    assert kind.__name__ in repr(thing) and thing._repr_html_() is None


def test_a_large_table_of_identifiers_is_not_read():
    class Rows:
        def __getitem__(self, index):
            raise AssertionError("read")

        __repr__ = __len__ = __getitem__

    model = load("eqr-sudoku6")
    model.table = PuzzleTable(1_200_000, 512, Rows(), used=set(range(10_000)))
    began = time.process_time()
    assert "1,200,000 of puzzles" in repr(model) and model._repr_html_()
    assert len(repr(model.table)) < 100 and time.process_time() - began < 1
