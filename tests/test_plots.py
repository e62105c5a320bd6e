"""Figures show the numbers of the datasets, keep their texts apart and inside, and convert to safe inline SVG."""

import re
from functools import partial
from html.parser import HTMLParser
from itertools import combinations

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.text import Text

from eqrlab import attractors as at
from eqrlab import plots
from eqrlab.analyses.commands.basins import puzzle_rows
from eqrlab.analyses.figures.diagnosis import mode_bar
from eqrlab.analyses.figures.runs import projection
from eqrlab.analyses.figures.style import COLOURS, figure_of, to_svg
from eqrlab.analyses.report.puzzle_boards import puzzle_boards
from eqrlab.analyses.text import tables
from eqrlab.analyses.text.format import percent, percent_interval
from eqrlab.analyses.text.verdicts import verdict_rows
from eqrlab.attractors.results.schema import MODES
from eqrlab.core import MapSystem
from tests import planted as plan
from tests.zoo import logistic, puzzles, selector


def figures(groups: plan.Groups) -> dict[str, Figure]:
    """Draw every figure that the groups allow, of the first and last puzzle."""
    ensemble, basins = groups["ensemble"], groups["basins"]
    drawn = {"paths": figure_of(partial(plots.plot_residuals, ensemble))}
    if "modes" in groups:
        drawn["modes"] = modes_figure(groups["modes"])
        drawn["scatter"] = scatter(ensemble, groups["alignment"])
    for p in {0, basins.sizes["puzzle"] - 1}:
        drawn[f"basins {p}"] = figure_of(partial(plots.plot_basins, basins, p))
        if "sketch_path" in ensemble:
            drawn[f"phase {p}"] = figure_of(partial(plots.plot_phase, ensemble, basins, p))
    return drawn


def modes_figure(modes: xr.Dataset) -> Figure:
    return figure_of(partial(mode_bar, modes), partial(plots.plot_modes, modes))


def scatter(ensemble: xr.Dataset, alignment: xr.Dataset) -> Figure:
    return figure_of(partial(plots.plot_alignment, ensemble, alignment), partial(plots.plot_auc, alignment))


def texts(figure: Figure) -> list[Text]:
    """Return the texts that are drawn: tick labels outside the view are not."""
    figure.draw_without_rendering()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = axis.get_major_ticks() + axis.get_minor_ticks()
            out = [
                t
                for t in ticks
                if not axes.axison or not low * (1 - 1e-9) <= t.get_loc() <= high * (1 + 1e-9)
            ]
            hidden |= {label for t in out for label in (t.label1, t.label2)}
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in hidden]


@pytest.mark.parametrize("name", plan.DEGENERATE)
def test_degenerate_ensembles_are_drawn_with_texts_inside_and_apart(name):
    for kind, figure in figures(plan.DEGENERATE[name]()).items():
        shown = texts(figure)
        boxes = [t.get_window_extent() for t in shown]
        frame = figure.bbox
        for t, box in zip(shown, boxes, strict=True):
            assert (
                box.x0 >= -4 and box.y0 >= -4 and box.x1 <= frame.width + 4 and box.y1 <= frame.height + 4
            ), (kind, t.get_text())
        if not kind.startswith("phase"):  # the numbers of attractors may be as close as the attractors
            for (a, one), (b, other) in combinations(zip(shown, boxes, strict=True), 2):
                wide = min(one.x1, other.x1) - max(one.x0, other.x0)
                tall = min(one.y1, other.y1) - max(one.y0, other.y0)
                assert wide < 1 or tall < 2, (kind, a.get_text(), b.get_text())


@pytest.mark.parametrize(
    "groups", [plan.mode_a, plan.mode_b, plan.mode_c, plan.mode_d, plan.unfinished, plan.mixed]
)
def test_every_figure_is_five_inches_wide_with_texts_of_ten_points_or_more(groups):
    for kind, figure in figures(groups()).items():
        assert figure.get_figwidth() == 5, kind
        assert min(t.get_fontsize() for t in texts(figure)) >= 10, kind


def test_runs_that_are_not_finite_are_drawn():
    groups = plan.nonfinite()
    assert not np.isfinite(groups["ensemble"].residual.values).all()
    assert len(figures(groups)) == 7


def test_mode_shares_are_written_with_their_intervals():
    modes = plan.mixed()["modes"]
    written = [t.get_text() for t in texts(modes_figure(modes))]
    for letter, value in zip(MODES, modes.landscape_share.values, strict=True):
        assert any(t.startswith(percent(value)) for t in written), letter


def test_scatter_writes_the_auc_or_why_there_is_none():
    good, hopeless = plan.mode_c(), plan.mode_a()
    least = float(good["alignment"].auc_low.values[-1])
    assert least < 0.95, "few puzzles: the interval of a perfect separation has width"
    assert any(
        t.get_text() == f"AUC 1.00 [{least:.2f}, 1.00]"
        for t in texts(scatter(good["ensemble"], good["alignment"]))
    )
    figure = scatter(hopeless["ensemble"], hopeless["alignment"])
    assert any(t.get_text() == "AUC undefined: every run is wrong" for t in texts(figure))


def test_scatter_without_token_accuracy_sets_right_apart_from_wrong():
    groups = plan.mode_b()
    figure = scatter(groups["ensemble"].drop_vars("token_accuracy"), groups["alignment"])
    assert {"right", "wrong"} <= {t.get_text() for t in texts(figure)}


def test_scatter_has_a_mark_for_each_run():
    groups = plan.mode_b()
    marks = scatter(groups["ensemble"], groups["alignment"]).axes[0].collections
    assert sum(len(m.get_offsets()) for m in marks) == groups["ensemble"].fate.size


def test_masses_of_a_puzzle_sum_to_one_and_many_attractors_are_summed_up():
    for groups in (plan.mode_b(), plan.DEGENERATE["many attractors"](), plan.unfinished()):
        rows = tables.mass_rows(groups["basins"], 0)
        assert sum(mass for _, kind, mass, _, _ in rows if kind != "unseen") == pytest.approx(1)
        assert len(rows) <= tables.SHOWN_ATTRACTORS + 4
        assert all(low <= mass <= high for _, kind, mass, low, high in rows if kind != "unseen")
    many = plan.DEGENERATE["many attractors"]()["basins"]
    label = next(r[0] for r in tables.mass_rows(many, 0) if r[0].endswith("more wrong"))
    hidden = int(many.attractors[0]) - tables.SHOWN_ATTRACTORS
    assert int(label.split()[0].replace(",", "")) in (
        hidden,
        hidden - 1,
    )  # all wrong, but for the one that is right


def test_masses_are_shares_of_the_restarts_of_their_own_puzzle():
    """The first puzzle has 16 small attractors, the second halves, which take more restarts."""
    system = selector([[0.0] * 4, [9.0, 9.0, 9.0, 0.0]])
    found = at.estimate_basins(system, puzzles(2), half_width=0.1, depth=48)
    assert found.restarts_used[0] < found.restarts_used[1]
    for p in (0, 1):
        assert sum(row[2] for row in tables.mass_rows(found, p)[:-1]) == pytest.approx(1)


def test_an_attractor_whose_answer_changes_is_neither_right_nor_wrong():
    """The logistic map at 3.2 goes between .513 and .799; answers above .6 are right."""
    base = logistic(3.2)
    system = MapSystem(base.step, base.initial, lambda z, x: (z > 0.6).long() + 1)
    runs = at.sample(system, puzzles(), labels=torch.tensor([[2]]), restarts=20, depth=300)
    groups = {"ensemble": runs, "basins": at.basins(runs), "modes": at.modes(runs)}
    assert tables.mass_rows(groups["basins"], 0)[0][:3] == ("1: changing", "none", 1.0)
    (row,) = verdict_rows(groups)
    assert row["changing mass"].startswith("100 %") and row["spurious mass"].startswith("0 %")
    (view,) = puzzle_boards(groups, 0)["boards"]
    assert view["kind"] == "none" and view["ends"].startswith("period 2, its answer changes, ")
    assert puzzle_rows(groups["basins"].assign(stop=("puzzle", [0])))[0]["changing"].startswith("100 %")


def test_masses_are_written_with_the_intervals_of_the_dataset():
    basins = plan.mode_b()["basins"]
    written = [t.get_text() for t in texts(figure_of(partial(plots.plot_basins, basins, 0)))]
    for a in range(int(basins.attractors[0])):
        one = basins.isel(puzzle=0, attractor=a)
        assert percent_interval(float(one.mass), float(one.mass_low), float(one.mass_high)) in written
    assert f"≤ {percent(float(basins.unseen_mass_high[0]))}" in written


def test_projection_finds_the_plane_of_planar_paths_and_its_share():
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(6, 2)))[0]
    flat = rng.normal(size=(5, 7, 2)) * [3, 1]
    points, explained = projection(flat @ plane.T + rng.normal(size=6))
    assert explained.sum() == pytest.approx(1) and explained[0] > explained[1]
    distance = lambda x: np.linalg.norm(x[:, None, 0] - x[None, :, -1], axis=-1)
    np.testing.assert_allclose(distance(points), distance(flat), atol=1e-12)


def test_projection_leaves_out_runs_that_are_not_finite_and_bears_no_spread():
    paths = np.zeros((3, 4, 1))
    paths[1, 2] = np.inf
    points, explained = projection(paths)
    assert np.isnan(points[1]).all() and (points[[0, 2]] == 0).all() and (explained == 0).all()
    assert np.isnan(projection(np.full((2, 3, 4), np.nan))[0]).all()


class Ids(HTMLParser):
    """Collect the ids, the references and the tags of a piece of HTML."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.references, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name == "href" and value.startswith("#"):
                self.references.append(value[1:])
            self.references += re.findall(r"url\(#([^)]+)\)", value or "")


def test_svg_has_its_own_ids_page_colours_and_a_text():
    drawn = figures(plan.mixed())
    parts = [
        Ids(to_svg(figure, f"c{k}", f'"{kind}" & more')) for k, (kind, figure) in enumerate(drawn.items())
    ]
    ids = [i for part in parts for i in part.ids]
    assert len(ids) == len(set(ids)) and ids
    for part in parts:
        assert set(part.references) == set(part.ids) and not {"metadata", "style", "script"} & set(part.tags)
    svg = to_svg(modes_figure(plan.mixed()["modes"]), "x", 'shares "of" <modes>')
    assert svg.startswith('<svg class="plot" viewBox="0 0 360 ') and svg.endswith("</svg>")
    assert 'aria-label="shares &quot;of&quot; &lt;modes&gt;"' in svg
    assert "var(--mode-b)" in svg and "http" not in svg and "font-family" not in svg
    assert not any(colour in svg for colour in COLOURS.values())


def test_svg_is_the_same_every_time():
    groups = plan.mixed()
    one, other = ([to_svg(f, "x", "") for f in figures(groups).values()] for _ in range(2))
    assert one == other


def test_dense_scatter_becomes_a_picture():
    groups = plan.DEGENERATE["240 puzzles"]()
    svg = to_svg(scatter(groups["ensemble"], groups["alignment"]), "x", "")
    assert len(svg) < 400_000
