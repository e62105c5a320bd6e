"""Results by name: labels of modes, words for codes, tables of rows, summaries with intervals."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from eqrlab import attractors as at
from eqrlab.attractors.results import archive, schema
from eqrlab.attractors.results.named import ADVICE_WORDS, named
from tests.zoo import puzzles, selector, up_mass

MODES = ["a", "b", "c", "d", "undecided"]


@pytest.fixture(scope="module")
def ensemble():
    return at.sample(
        selector([[-2.5], [0.0], [0.5]]),
        puzzles(3),
        labels=torch.full((3, 1), 2),
        restarts=64,
        depth=48,
    )


@pytest.fixture(scope="module")
def modes(ensemble):
    return at.modes(ensemble)


def test_modes_are_the_labels_of_their_dimension(modes):
    table = modes.mode_probability.to_pandas()
    assert list(table.columns) == MODES and table.columns.name == "mode"
    assert modes["landscape_share"].coords["mode"].values.tolist() == MODES
    np.testing.assert_array_equal(modes.mode_probability.sel(mode="d"), modes.mode_probability.isel(mode=3))
    assert float(modes.sel(mode="d").landscape_share) == float(modes.landscape_share.values[3])
    assert modes.sel(mode=["d", "a"]).landscape_share.mode.values.tolist() == ["d", "a"]
    assert modes.sel(mode=slice("b", "d"), puzzle=1).mode_probability.mode.values.tolist() == ["b", "c", "d"]
    assert modes.mode_probability.to_series().loc[(0, "d")] == float(modes.mode_probability[0, 3])
    with pytest.raises(KeyError, match="no mode 'e'; there are a, b, c, d, undecided"):
        modes.sel(mode="e")


def test_the_verdict_of_a_puzzle_keeps_its_name_and_flags(modes):
    assert modes.mode.dims == ("puzzle",) and modes.mode.attrs["flag_meanings"] == " ".join(MODES)
    assert [MODES[code] for code in modes["mode"].values][:2] == ["d", "b"]


def test_names_survive_what_is_done_to_results(modes):
    for other in (
        modes.copy(deep=True),
        modes.isel(puzzle=[0, 1]),
        modes.drop_vars("advice"),
        modes.assign(x=1),
    ):
        assert other.mode_probability.mode.values.tolist() == MODES
    assert (modes.mode_probability - modes.mode_probability.isel(puzzle=[0])).mode.values.tolist() == MODES
    assert xr.concat([modes, modes], "checkpoint").sizes["checkpoint"] == 2


def test_codes_come_as_words(ensemble, modes):
    told = at.words(modes)
    assert told.mode.values[:2].tolist() == ["d", "b"]
    assert told.advice.values[0] == ADVICE_WORDS[schema.ADVICE[int(modes.advice[0])]]
    assert told.landscape_mode.item() in MODES
    assert set(np.unique(at.words(ensemble.fate))) <= set(schema.FATES)
    assert at.words(ensemble.residual).identical(ensemble.residual), "no codes: as it is"
    advice = xr.DataArray(np.arange(len(schema.ADVICE)), attrs=schema.flags(schema.ADVICE))
    assert not any("_" in word or "buy" in word for word in at.words(advice).values), "plain words"
    none = xr.DataArray([-1, 0], attrs=schema.flags(("x", "y")))
    assert at.words(none).values.tolist() == ["none", "x"]


def test_files_keep_flags_and_are_read_with_names(ensemble, modes, tmp_path):
    archive.write(tmp_path / "a.nc", {"ensemble": ensemble, "modes": modes, "other/modes": modes})
    found = at.read(tmp_path / "a.nc")
    assert list(found) == ["ensemble", "modes", "other/modes"]
    assert found["modes"].mode_probability.to_pandas().equals(modes.mode_probability.to_pandas())
    with xr.open_datatree(tmp_path / "a.nc") as tree:
        assert tree["modes"].mode.attrs["flag_meanings"] == " ".join(MODES)
        assert named(tree["modes"].to_dataset()).mode_probability.sel(mode="d").shape == (3,)


def test_a_table_of_basins_has_a_row_an_attractor(ensemble):
    basins = at.basins(ensemble)
    table = basins.to_dataframe()
    assert len(table) == basins.sizes["puzzle"] * basins.sizes["attractor"]
    assert {"mass", "mass_low", "fate", "correct_mass"} <= set(table) and "answer" not in table
    spread = basins[["answer", "mass"]].to_dataframe(["puzzle", "attractor", "token"])
    assert list(spread.index.names) == ["puzzle", "attractor", "token"] and "answer" in spread


def test_a_table_of_modes_has_a_row_a_mode(modes):
    table = modes.to_dataframe()
    assert list(table.index.names) == ["puzzle", "mode"] and len(table) == 15
    assert table.loc[(0, "d"), "mode_probability"] == float(modes.mode_probability[0, 3])
    assert table.loc[1, "puzzle_mode"].eq(1).all()


def test_a_summary_of_an_ensemble_has_the_planted_share(ensemble):
    table = at.summary(ensemble)
    right = table[(table.quantity == "right") & (table.puzzle == 1)].iloc[0]
    assert right.low < up_mass(0.0) < right.high
    shares = table[(table.quantity != "right") & (table.puzzle == 1)]
    assert shares.value.sum() == pytest.approx(1), "every run has one fate"
    over = table[(table.quantity == "right") & (table.puzzle == "all")].iloc[0]
    assert over.value == pytest.approx(float(ensemble.correct[:, :, -1].mean()))
    assert over.high - over.low > right.high - right.low, "puzzles differ more than restarts"


def test_a_wider_confidence_gives_wider_intervals(ensemble):
    narrow, wide = (at.summary(ensemble, confidence=c) for c in (0.8, 0.99))
    assert (wide.high - wide.low >= narrow.high - narrow.low).all() and wide.attrs["confidence"] == 0.99


def results():
    """Every kind of result that takes little time, name to a function that makes it."""

    def run():
        system, inputs = selector([[-0.5], [0.0]]), puzzles(2)
        return (
            system,
            inputs,
            at.sample(
                system,
                inputs,
                labels=torch.full((2, 1), 2),
                restarts=16,
                depth=32,
                keep=("summary", "final_state"),
            ),
        )

    def state(analysis, **options):
        def made():
            system, inputs, ensemble = run()
            return analysis(system, inputs, ensemble.isel(restart=slice(2)), **options)

        return made

    def whole(analysis):
        return lambda: analysis(run()[2])

    return {
        "sample": whole(lambda e: e), "basins": whole(at.basins), "alignment": whole(at.alignment),
        "modes": whole(at.modes), "mode_sensitivity": whole(at.mode_sensitivity), "outcomes": whole(at.outcomes),
        "scaling": whole(at.scaling), "spectrum": state(at.spectrum, k=1),
        "singular_values": state(at.singular_values, k=1), "lyapunov": state(at.lyapunov, k=1, steps=20),
        "ftle": state(at.ftle, steps=8), "fixed_points": state(at.fixed_points),
    }  # fmt: skip


@pytest.mark.parametrize("name", results())
def test_every_number_of_a_summary_has_an_interval_or_says_why_not(name):
    table = at.summary(results()[name]())
    assert isinstance(table, pd.DataFrame) and len(table)
    unbounded = table.low.isna() & table.high.isna()
    assert (table.why[unbounded].str.len() > 0).all() and (table.why[~unbounded] == "").all()
    both = table.dropna(subset=["value", "low", "high"])
    assert ((both.low <= both.value + 1e-12) & (both.value <= both.high + 1e-12)).all()


def test_a_summary_of_something_else_is_refused():
    with pytest.raises(ValueError, match="summary takes a dataset, got str"):
        at.summary("out/diagnosis.nc")
