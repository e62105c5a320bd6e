"""What reports say of pushes, duels and clues is what was measured."""

import numpy as np
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.studies.borders import borders
from eqrlab.analyses.text.borders import border_sentences
from tests.zoo import puzzles, selector

M = 0.9575040240772688


def measured():
    """G3: both sides are stable, the border is half way, at m from either; two puzzles."""
    system, inputs = selector([[0.0], [0.2]]), puzzles(2)
    run = at.Run.of(system, inputs, labels=torch.full((2, 1), 2), restarts=24, depth=64)
    ensemble = run.with_(keep=("summary", "final_state")).sample()
    groups = {"ensemble": ensemble, "basins": at.basins(ensemble), "modes": at.modes(ensemble)}
    return groups | borders(run, ensemble, groups, derivatives=True), run


def test_radius_and_duels_of_the_telling_puzzles_are_told():
    groups, _ = measured()
    assert "clues" not in groups, "a map of one's own has no task whose blanks are known"
    told = border_sentences(groups, groups["radius"].puzzle.values[0])
    shown = f"{float(groups['radius'].relative_radius[0, 0]):.2g}"
    assert told[0].startswith(f"Half of the pushes lose the right answer at {shown} [{shown}, beyond 4]")
    assert "beyond 4]" in told[0] and "the wrong answer at" in told[0], (
        "eight directions bound the median below only"
    )
    assert "50 % [22, 78] end right (8 pairs)" in told[1]
    np.testing.assert_allclose(groups["radius"].basin_radius, M, rtol=0.06)


def test_without_states_nothing_is_measured_and_nothing_is_told():
    groups, run = measured()
    few = {name: groups[name] for name in ("ensemble", "basins", "modes")}
    assert borders(run, run.sample(), few, derivatives=False) == {}
    assert border_sentences(few, 0) == []


def test_only_cells_with_a_clue_are_named():
    share, tokens = np.full((1, 1, 36), np.nan), np.ones((1, 36), int)
    share[0, 0, [4, 20]], tokens[0, [4, 20]] = (0.25, 0.5), 3
    variables = {
        "margin_lost": (("puzzle", "point", "input_token"), share),
        "inputs": (("puzzle", "input_token"), tokens),
    }
    clues = xr.Dataset(variables, {"puzzle": [7], "point": ["right"]})
    (told,) = border_sentences({"clues": clues, "ensemble": xr.Dataset(attrs={"task": "sudoku6"})}, 7)
    assert told.index("50 %") < told.index("25 %") and "undefined" not in told
