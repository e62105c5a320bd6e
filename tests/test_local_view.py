"""Local dynamics as readers see them: the sentence, the table, the picture, and the report that holds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from eqrlab.analyses.compare import compare
from eqrlab.analyses.diagnose import diagnose
from eqrlab.analyses.figures.spectrum import plot_spectrum
from eqrlab.analyses.report.local import local_rows, local_sentence
from eqrlab.analyses.report.page import write_report
from eqrlab.attractors.results import archive
from eqrlab.core import MapSystem


@pytest.fixture(scope="module")
def groups():
    system = MapSystem(
        lambda z, x: torch.tanh(2 * z),
        lambda x, g: torch.randn((len(x), 3), generator=g, dtype=torch.float64),
        decode=lambda z, x: (z[:, :1] > 0).long(),
    )
    inputs, labels = np.arange(2)[:, None], np.ones((2, 1), int)
    return diagnose(system, inputs, labels=labels, restarts=16, depth=24, local=True)


def test_the_sentence_counts_right_and_wrong_states(groups):
    text = local_sentence(groups["spectrum"])
    assert text == (
        "2 right states: 2 stable; spectral radius 0.17. 2 wrong states: 2 stable; spectral radius 0.17."
    )


def test_the_table_lists_wrong_states_first_with_measured_rates(groups):
    rows = local_rows(groups["spectrum"], groups["basins"])
    assert [r["answer"] for r in rows] == ["wrong", "wrong", "right", "right"]
    assert {r["measured"] for r in rows} == {"0.17"} and {r["verdict"] for r in rows} == {"stable"}


def test_a_rate_that_too_few_steps_show_is_not_known_and_an_exact_radius_has_the_bound_zero(groups):
    spectrum = groups["spectrum"].copy(deep=True)
    spectrum["measured_rate"][:] = np.nan
    for end in ("", "_low", "_high"):
        spectrum[f"spectral_radius{end}"][:] = 0.0
    for row in local_rows(spectrum, groups["basins"]):
        assert (row["radius"], row["measured"]) == ("0.000 [to 0]", "not known")


def test_the_picture_has_a_mark_for_every_eigenvalue(groups):
    marks = sum(
        len(c.get_offsets()) for c in plot_spectrum(groups["spectrum"], ax=Figure().subplots()).collections
    )
    assert marks == int(np.isfinite(groups["spectrum"].eigenvalue.values).sum()) == 12


def test_the_archive_keeps_it_and_the_report_shows_it(groups, tmp_path):
    archive.write(tmp_path / "d.nc", groups)
    write_report(tmp_path / "d.nc", tmp_path / "d.html")
    text = (tmp_path / "d.html").read_text()
    assert "Local dynamics at the attractors" in text and "2 wrong states" in text
    without = {k: v for k, v in groups.items() if k != "spectrum"}
    archive.write(tmp_path / "e.nc", without)
    write_report(tmp_path / "e.nc", tmp_path / "e.html")
    assert "Local dynamics at the attractors" not in (tmp_path / "e.html").read_text()


def test_spectral_radii_are_compared_where_both_have_them(groups):
    found = compare({"one": groups, "two": groups})
    value = found.value.sel(quantity="spectral radius at right attractors").values
    assert np.allclose(value, 0.16637208775, atol=1e-6)


def test_a_spectrum_of_runs_is_not_compared_as_one_of_right_attractors(groups):
    runs = groups | {"spectrum": groups["spectrum"].drop_vars("verdict")}
    assert not [q for q in compare({"one": runs, "two": runs})["quantity"].values if "radius" in str(q)]
