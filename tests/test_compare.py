"""Comparisons: paired by puzzle, right on planted landscapes."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.analyses.compare import compare, comparison_rows
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
    row = next(r for r in comparison_rows(result) if "settling" in r["quantity"])
    assert row["two"].endswith("(too few puzzles)")


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
    rows = comparison_rows(compare({"one": planted([0.0, 0.3]), "two": planted([0.2, 0.4])}))
    assert list(rows[0]) == ["quantity", "one", "two"] and any(r["quantity"] == "mode b" for r in rows)


def test_misuse_is_named():
    with pytest.raises(ValueError, match="at least two checkpoints"):
        compare({"one": planted([0.0])})
    other = planted([0.0])
    other["ensemble"] = other["ensemble"].assign(inputs=other["ensemble"].inputs + 1)
    with pytest.raises(ValueError, match="not run on the same puzzles"):
        compare({"one": planted([0.0]), "two": other})
