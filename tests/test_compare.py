"""Comparisons: paired by puzzle, right on planted landscapes."""

import json

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.analyses.compare import compare
from eqrlab.analyses.text.comparison import (
    clear_differences,
    comparison_table,
    is_share,
    paired_means,
    table_rows,
)
from tests.command_line import inside, refused
from tests.zoo import puzzles, selector, up_mass


def planted(offsets, seed=0):
    labels = torch.full((len(offsets), 1), 2)
    ensemble = at.sample(
        selector([[b] for b in offsets]),
        puzzles(len(offsets)),
        labels=labels,
        restarts=200,
        depth=48,
        seed=seed,
    )
    return {
        "ensemble": ensemble,
        "basins": at.basins(ensemble),
        "alignment": at.alignment(ensemble),
        "modes": at.modes(ensemble),
    }


def test_a_model_equals_itself():
    groups = planted([-1.0, 0.0, 0.5, 1.0])
    result = compare({"one": groups, "two": groups})
    gap = result.difference.values
    assert (gap[np.isfinite(gap)] == 0).all()
    mass = result.sel(checkpoint="two", quantity="correct mass")
    edge = 1 - 0.05 ** (1 / 4)  # four puzzles that agree do not say that all puzzles do
    np.testing.assert_allclose([mass.difference_low, mass.difference_high], [-edge, edge])
    steps = result.sel(checkpoint="two", quantity="settling step of right runs")
    assert np.isnan(steps.difference_low), "four puzzles are too few where the range is not known"
    row = next(r for r in table_rows(comparison_table(result)) if "settling" in r["quantity"])
    assert row["difference [95 % interval]"].endswith("(too few puzzles)")


def test_differences_are_those_of_the_planted_masses():
    offsets = np.linspace(-1, 1, 12)
    result = compare({"wide": planted(offsets), "narrow": planted(offsets + 0.5)}).sel(checkpoint="narrow")
    for quantity in ("correct mass", "accuracy, mean"):
        seen = result.sel(quantity=quantity)
        truth = np.mean([up_mass(b + 0.5) - up_mass(b) for b in offsets])
        assert float(seen.difference_low) < truth < float(seen.difference_high) < 0
        assert abs(float(seen.difference) - truth) < 0.03
    assert int(result.sel(quantity="correct mass").puzzles_compared) == 12


def test_pairing_makes_the_interval_narrower_than_the_spread_of_puzzles():
    offsets = np.linspace(-2, 2, 12)
    result = compare({"a": planted(offsets, 1), "b": planted(offsets, 2)}).sel(quantity="correct mass")
    width = float((result.difference_high - result.difference_low).sel(checkpoint="b"))
    assert width < 0.1


def test_the_table_names_every_checkpoint_and_quantity():
    rows = table_rows(comparison_table(compare({"one": planted([0.0, 0.3]), "two": planted([0.2, 0.4])})))
    assert list(rows[0]) == ["quantity", "one", "two", "difference [95 % interval]", "over"]
    assert any("(b) right and wrong attractors" in r["quantity"] for r in rows)


def test_columns_subtract_also_where_a_puzzle_defines_a_quantity_for_one_checkpoint_only():
    """Runs of the second puzzle are right for one checkpoint, never for the other: its settling step is undefined."""
    one, two = planted([-1.0, -1.0, 0.0, 0.3, 0.5, -0.3]), planted([-1.0, 9.0, 0.0, 0.3, 0.5, -0.3], seed=3)
    result = compare({"one": one, "two": two})
    q = list(result.quantity.values).index("settling step of right runs")
    assert int(result.puzzles_compared[1, q]) == 5 and np.isfinite(result.puzzle_value[0, q]).all()
    first, second = paired_means(result, 1)
    gap = result.difference.values[1]
    np.testing.assert_allclose((second - first)[np.isfinite(gap)], gap[np.isfinite(gap)], atol=1e-12)
    assert abs(float(result.value[1, q] - result.value[0, q]) - gap[q]) > 1e-3, (
        "the plain means do not subtract"
    )
    row = next(
        r for rows in comparison_table(result).values() for r in rows if r["quantity"].startswith("settling")
    )
    assert row["over"] == "5 puzzles"


def test_differences_beyond_their_interval_are_told_from_open_ones():
    offsets = np.linspace(-1, 1, 12)
    result = compare(
        {"wide": planted(offsets), "narrow": planted(offsets + 0.5), "same": planted(offsets, 5)}
    )
    assert "narrow beside wide: one restart is right less often, -" in clear_differences(result, 1)
    assert "whether one restart is right more often is open" in clear_differences(result, 2)
    assert is_share("correct mass") and not is_share("settling step of right runs")


def test_what_differs_between_checkpoints_is_recorded_of_each():
    one, two = planted([0.0]), planted([0.0])
    for groups, digest, noise in ((one, "abc", 0.0), (two, "def", 0.1)):
        groups["ensemble"].attrs |= {"checkpoint_sha256": digest, "noise": np.float64(noise)}
        groups["ensemble"].attrs["config"] = json.dumps({"n": noise})
    told = compare({"one": one, "two": two}).attrs
    assert json.loads(told["checkpoint_sha256"]) == {"one": "abc", "two": "def"}
    assert json.loads(told["noise"]) == {"one": 0.0, "two": 0.1}
    assert json.loads(told["config"]) == {"one": {"n": 0.0}, "two": {"n": 0.1}}
    assert told["seed"] == one["ensemble"].attrs["seed"]


def test_misuse_is_named():
    with pytest.raises(ValueError, match="at least two checkpoints"):
        compare({"one": planted([0.0])})
    other = planted([0.0])
    other["ensemble"] = other["ensemble"].assign(inputs=other["ensemble"].inputs + 1)
    with pytest.raises(ValueError, match="two has other puzzles than one"):
        compare({"one": planted([0.0]), "two": other})


def test_other_puzzles_are_refused_before_anything_is_run(tmp_path):
    """The bundled models of two tasks have puzzles of their own."""
    small = ["--limit", "2", "--restarts", "2", "--depth", "4", "--no-local"]
    done = inside("compare", "eqr-sudoku6", "eqr-sudoku9", *small, "--out", tmp_path)
    refused(done, "eqr-sudoku9 has other puzzles than eqr-sudoku6")
    assert done.output == "" and not list(tmp_path.iterdir())
