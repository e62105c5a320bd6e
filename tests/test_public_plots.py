"""Public plots take a dataset, return axes, draw on axes they are given, and show the numbers of the dataset."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eqrlab import attractors as at
from eqrlab import plots
from eqrlab.analyses.compare import compare
from tests import planted as plan

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def groups():
    return plan.mixed()


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def two(groups):
    """The landscapes beside themselves with right and wrong exchanged."""
    ensemble = groups["ensemble"].assign(correct=~groups["ensemble"].correct)
    return compare({"first": groups, "second": plan.groups_of(ensemble.copy(), "second")})


def calls(groups):
    ensemble, log = (
        groups["ensemble"],
        [{"step": 100, "loss": 2.0}, {"step": 200, "loss": 1.0, "test_exact": 0.5}],
    )
    return {
        "plot_residuals": (ensemble,), "plot_alignment": (ensemble,), "plot_auc": (groups["alignment"],),
        "plot_basins": (groups["basins"],), "plot_modes": (groups["modes"],), "plot_phase": (ensemble,),
        "plot_scaling": (at.scaling(ensemble),), "plot_heat": (at.scaling(ensemble),), "plot_fates": (ensemble,),
        "plot_outcomes": (at.outcomes(ensemble),), "plot_risk_coverage": (at.signals(ensemble),),
        "plot_training": (log,), "plot_differences": (two(groups),), "plot_scatter": (two(groups),),
    }  # fmt: skip


def test_every_plot_is_listed_and_returns_the_axes_it_is_given_or_makes(groups):
    given = calls(groups)
    assert set(plots.__all__) == {*given, "plot_plane", "plot_spectrum"}, (
        "those two are drawn by tests of their own"
    )
    for name, arguments in given.items():
        made = getattr(plots, name)(*arguments)
        assert isinstance(made, Axes) and made.figure.number in pyplot.get_fignums(), name
        mine = Figure().subplots()
        assert getattr(plots, name)(*arguments, ax=mine) is mine and mine.has_data(), name


def test_modes_are_drawn_as_long_as_their_shares(groups):
    widths = [bar.get_width() for bar in plots.plot_modes(groups["modes"]).patches]
    np.testing.assert_allclose(widths, groups["modes"].landscape_share.values)


@pytest.mark.parametrize("of_the_first", [2, 99])
def test_fates_of_a_puzzle_fill_its_bar_however_many_restarts_were_drawn(of_the_first, groups):
    ensemble = groups["ensemble"]
    most = np.where(np.arange(ensemble.sizes["puzzle"]) > 0, 99, of_the_first)
    drawn = np.arange(ensemble.sizes["restart"]) < most[:, None]
    fate = ensemble["fate"].copy(data=np.where(drawn, ensemble["fate"], -1))
    axes = plots.plot_fates(ensemble.assign(fate=fate, drawn=(("puzzle", "restart"), drawn)))
    rows = np.round([bar.get_y() + bar.get_height() / 2 for bar in axes.patches]).astype(int)
    total = np.bincount(rows, weights=[bar.get_width() for bar in axes.patches])
    np.testing.assert_allclose(total, 1)


def test_the_scatter_shows_the_residual_of_the_curve(groups):
    ensemble = groups["ensemble"]
    marks = np.concatenate([c.get_offsets()[:, 0] for c in plots.plot_alignment(ensemble).collections])
    shown = np.sort(ensemble.residual.values[:, :, -1].ravel())
    np.testing.assert_allclose(np.sort(marks)[shown > 0], shown[shown > 0], rtol=1e-5)
    lines = plots.plot_residuals(ensemble).collections[0].get_segments()
    first = ensemble.residual.values[:, :, 0].astype(float)
    assert np.isin([line[0, 1] for line in lines], first).all() and (first > 0).all()
    assert "relative" not in plots.plot_alignment(ensemble).get_xlabel()


def test_the_auc_written_in_the_scatter_is_that_of_the_residual_it_shows():
    """Wrong runs are larger states: of the residual the AUC is 1, of its ratio to the norm it would be 0."""
    ensemble = plan.mode_b()["ensemble"].isel(step=[-1]).copy(deep=True)
    wrong = ~ensemble.correct.values
    assert wrong.any() and (~wrong).any()
    ensemble["residual"].values[:] = np.where(wrong, 2.0, 1.0)
    ensemble["relative_residual"].values[:] = np.where(wrong, 0.1, 0.5)
    axes = plots.plot_alignment(ensemble)
    written = next(t.get_text() for t in axes.texts if t.get_text().startswith("AUC"))
    marks = {c.get_label(): c.get_offsets()[:, 0] for c in axes.collections}
    assert written.startswith("AUC 1.00") and marks["wrong"].min() > marks["right"].max()


def test_residuals_that_become_exactly_zero_leave_the_level_and_the_first_steps_in_the_picture():
    ensemble = plan.mode_b()["ensemble"].copy(deep=True)
    ensemble["residual"].values[:] = ensemble["relative_residual"].values[:] = 0.0
    ensemble["residual"].values[:, :, 0], ensemble["relative_residual"].values[:, :, 0] = 1.0, 0.5
    ensemble["residual"].values[0, 0, 1], ensemble["relative_residual"].values[0, 0, 1] = 1e-20, 5e-21
    axes = plots.plot_residuals(ensemble)
    assert axes.get_ylim()[0] < 1e-20 and axes.get_ylim()[1] > 1
    assert any("settled below" in t.get_text() or "numerical floor" in t.get_text() for t in axes.texts)


@pytest.mark.parametrize("puzzle", [-1, 99])
def test_a_puzzle_that_is_not_there_is_named_and_no_figure_is_left(groups, puzzle):
    for draw, result in ((plots.plot_basins, groups["basins"]), (plots.plot_phase, groups["ensemble"])):
        with pytest.raises(ValueError, match=f"puzzle is a position from 0 to .*, got {puzzle}"):
            draw(result, puzzle=puzzle)
    with pytest.raises(ValueError, match="paths of the runs are needed"):
        plots.plot_phase(groups["ensemble"].drop_vars("sketch_path"))
    assert not pyplot.get_fignums()


def test_training_is_read_from_a_run_folder_and_a_folder_without_one_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"step": 10, "loss": 1.5}\n{"step": 20, "loss": 1.0, "test_exact": 0.25}\n'
    )
    axes = plots.plot_training(tmp_path)
    assert axes.lines[0].get_ydata().tolist() == [0.25]
    with pytest.raises(ValueError, match="no line with a loss"):
        plots.plot_training(tmp_path / "other")


def test_spectrum_shows_what_converged_and_every_modulus_above_one():
    found = at.spectrum(*_rotation(), k=2)
    axes = plots.plot_spectrum(found)
    drawn = np.concatenate([c.get_offsets() for c in axes.collections])
    np.testing.assert_allclose(np.hypot(*drawn.T), 1.25)
    assert axes.get_xlim()[1] > 1.25


def _rotation():
    import torch

    from eqrlab.core import MapSystem

    turn = 1.25 * torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    start = lambda x, g: torch.randn((len(x), 2), generator=g, dtype=torch.float64)
    system = MapSystem(lambda z, x: z @ turn.T, start)
    return system, torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, 2, dtype=torch.float64)


def test_differences_and_scatter_show_the_numbers_of_the_comparison(groups):
    found = two(groups)
    axes = plots.plot_differences(found)
    drawn = sorted(float(line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 1)
    shown = [q for q, name in enumerate(found.quantity.values) if "step" not in str(name)]
    gaps = 100 * found.difference.values[1, shown]
    np.testing.assert_allclose(drawn, np.sort(gaps[np.isfinite(gaps)]))
    axes = plots.plot_scatter(found)
    points = {tuple(np.round(c.get_offsets()[0], 6)) for c in axes.collections}
    mass = found.puzzle_value.sel(quantity="correct mass").values
    assert {tuple(np.round(pair, 6)) for pair in mass.T} >= points
    named = ", ".join(t.get_text() for t in axes.texts)
    assert all(str(p) in named for p in found.puzzle.values[:4])


def test_misuse_is_named(groups):
    with pytest.raises(ValueError, match="checkpoint beside the first 'first' unknown; choose from second"):
        plots.plot_scatter(two(groups), checkpoint="first")
    with pytest.raises(ValueError, match="share 'settling step of right runs' unknown; choose from accuracy"):
        plots.plot_scatter(two(groups), "settling step of right runs")
    with pytest.raises(ValueError, match="choose from nfe, breadth, depth"):
        plots.plot_scaling(at.scaling(groups["ensemble"]), along="width")
    with pytest.raises(ValueError, match='keep=\\("summary", "path"\\)'):
        plots.plot_phase(groups["ensemble"].drop_vars("sketch_path"))


def test_what_the_first_figure_switches_on_stays_on(groups, monkeypatch):
    make = pyplot.figure

    def first(*args, **options):
        matplotlib.interactive(True)  # as the backend of Jupyter does at the first figure
        return make(*args, **options)

    monkeypatch.setattr(pyplot, "figure", first)
    try:
        plots.plot_modes(groups["modes"])
        assert matplotlib.is_interactive()
    finally:
        matplotlib.interactive(False)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the packages of Jupyter
def test_every_plot_of_a_notebook_is_shown_by_itself(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the tools of the guide are not installed")
    client = pytest.importorskip("nbclient").NotebookClient
    monkeypatch.delenv("MPLBACKEND", raising=False)
    cells = [
        "import torch\nfrom eqrlab import attractors, plots\nfrom eqrlab.core import MapSystem\n"
        "system = MapSystem(lambda z, x: torch.tanh(2 * z), lambda x, g: torch.randn((len(x), 1), generator=g))\n"
        "found = attractors.sample(system, torch.zeros(1, 1, dtype=torch.long), restarts=8, depth=16, progress=True)",
        "plots.plot_residuals(found);",
        "plots.plot_fates(found);",
        "system",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    done = client(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    sampled, *pictures, shown = [cell.outputs for cell in done.cells]
    assert not [out for out in sampled if out.output_type == "stream" and "Warning" in out.text]
    assert [[list(out.data)[-1] for out in cell] for cell in pictures] == [["image/png"]] * 2
    assert "MapSystem" in shown[0].data["text/html"]


def test_another_result_than_a_plot_draws_is_refused_before_any_figure_is_made(groups):
    given = calls(groups)
    given |= {"plot_plane": (), "plot_spectrum": ()}
    for name in set(given) - {"plot_training"}:
        for wrong in (
            groups["basins"] if name != "plot_basins" else groups["modes"],
            None,
            "out/diagnosis.nc",
        ):
            with pytest.raises(ValueError, match=rf"{name} draws what \w+.*\.\w+ returns, and was given"):
                getattr(plots, name)(wrong)
    assert not pyplot.get_fignums()


def test_a_heat_map_of_an_unknown_selector_names_those_there_are(groups):
    with pytest.raises(ValueError, match="selector 'residual' unknown; choose from top1_converged, majority"):
        plots.plot_heat(at.scaling(groups["ensemble"]), selector="residual")
