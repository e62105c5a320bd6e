"""The report says what the archive holds, stands alone, and is readable in a real browser."""

import json
import re

import numpy as np
import pytest
import xarray as xr

from eqrlab.analyses.compare import compare
from eqrlab.analyses.diagnose import archive_groups
from eqrlab.analyses.report import page as report
from eqrlab.analyses.report import puzzle_boards
from eqrlab.analyses.report.markdown import diagnosis_markdown
from eqrlab.analyses.text import tables
from eqrlab.analyses.text import verdicts as wording
from eqrlab.analyses.text.comparison import comparison_table
from eqrlab.analyses.text.format import number, percent, percent_interval
from eqrlab.analyses.text.telling import telling_puzzles
from eqrlab.analyses.text.vocabulary import mode_meaning
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.schema import MODES
from eqrlab.datasets import boards, task
from eqrlab.datasets.boards import board, wrong_cells
from tests import planted as plan
from tests.browser import Browser, find_chromium
from tests.command_line import inside, refused


def tree_of(*results: plan.Groups) -> xr.DataTree:
    groups = archive_groups({str(r["ensemble"].attrs["name"]): r for r in results})
    return xr.DataTree.from_dict(groups)


def words(html: str) -> str:
    """Return the text of a page, tags and runs of blanks replaced by one blank."""
    return re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]+>", " ", html, flags=re.S))


@pytest.fixture(scope="module")
def mixed() -> str:
    return report.render(tree_of(plan.mixed()))


@pytest.mark.parametrize(
    ("letter", "groups"), [("a", plan.mode_a), ("b", plan.mode_b), ("c", plan.mode_c), ("d", plan.mode_d)]
)
def test_report_opens_with_the_verdict(letter, groups):
    text = words(report.render(tree_of(groups())))
    assert f"Mode ({letter}): {mode_meaning(letter)}." in text
    for sentence in (
        wording.residual_sentence(groups()["alignment"]),
        wording.advice_sentence(groups()["modes"], groups()["alignment"]),
    ):
        assert report._figures(sentence).replace("\u00a0", " ") in text


def test_report_shows_the_numbers_of_the_datasets(mixed):
    groups, text = plan.mixed(), words(mixed)
    modes, alignment, basins = groups["modes"], groups["alignment"], groups["basins"]
    for m, letter in enumerate(MODES):
        assert percent(float(modes.landscape_share[m])) in text, letter
    index = wording.auc_depth(alignment)
    assert number(float(alignment.auc[index])) in text
    for i, name in enumerate(alignment.selector.values):
        value, low, high = (float(alignment[f"accuracy{e}"][i, -1]) for e in ("", "_low", "_high"))
        if high - low > 0.01:
            shown = percent_interval(value, low, high)
            assert shown.replace(" [", "  [") in text or shown in text, name
    for p, _ in telling_puzzles(groups):
        for a in range(int(basins.attractors[p])):
            one = basins.isel(puzzle=p, attractor=a)
            assert percent_interval(float(one.mass), float(one.mass_low), float(one.mass_high)) in text
    runs = groups["ensemble"].fate.size
    right = int(groups["ensemble"].correct[:, :, -1].sum())
    table = tables.outcome_table(groups["ensemble"], basins)
    assert sum(c["count"] for row in table for c in row["cells"]) == runs
    assert sum(c["count"] for row in table for c in row["cells"] if c["kind"] == "right") == right
    assert all(f"{c['count']:,} run" in text for row in table for c in row["cells"])


def test_strip_has_a_cell_for_each_puzzle(mixed):
    letters = re.findall(r'<li class="m-\w+[^>]*><span>(.)</span></li>', mixed)
    assert "".join(letters) == "".join(
        m if m != "undecided" else "?" for m in wording.puzzle_modes(plan.mixed()["modes"])
    )


def test_report_is_the_same_every_time_and_from_the_file(tmp_path, mixed):
    assert report.render(tree_of(plan.mixed())) == mixed
    archive.write(tmp_path / "diagnosis.nc", plan.mixed())
    report.write_report(tmp_path / "diagnosis.nc", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == mixed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["diagnosis.nc", "report.html"]


def test_report_loads_nothing_and_runs_nothing(mixed):
    assert "http" not in re.sub(r'<meta http-equiv="Content-Security-Policy"', "", mixed)
    assert not re.search(
        r"<(script|iframe|link(?! rel=\"icon\" href=\"data:,\"))|@import|javascript:| on\w+=", mixed
    )
    assert set(re.findall(r'(?:src|href)="(\w*:?)', mixed)) <= {"data:", ""}
    assert "default-src 'none'" in mixed and '<meta name="viewport"' in mixed


def test_ids_are_unique_and_references_resolve():
    html = report.render(tree_of(plan.mixed(), plan.mode_c(), plan.sudoku()))
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', html)) <= set(ids)


def test_residuals_measured_at_some_steps_only_are_said_to_be(mixed):
    tree = tree_of(plan.mixed())
    tree["ensemble"].attrs["residuals"] = "sparse"
    assert "Measured at some steps only" in words(report.render(tree))
    assert "Measured at some steps only" not in words(mixed)


def test_where_puzzles_have_unequal_restarts_tables_say_of_how_many_they_are(mixed):
    groups = plan.mixed()
    restarts = groups["ensemble"].sizes["restart"]
    drawn = np.ones(groups["ensemble"].fate.shape, bool)
    drawn[0, 5:] = False
    ensemble = groups["ensemble"].assign(drawn=(("puzzle", "restart"), drawn))
    text = words(report.render(tree_of(groups | {"ensemble": ensemble})))
    assert (
        f"5 to {restarts} restarts each, " in text and "accuracies and AUC from the first 5 of each" in text
    )
    assert "at the last step, of the first 5 restarts of each puzzle" in text
    assert "choosing among 5 restarts of each puzzle" in text
    assert "of the first" not in words(mixed) and f"choosing among {restarts} restarts" in words(mixed)
    assert "(accuracies and AUC from the first 5 of each)" in diagnosis_markdown(
        groups | {"ensemble": ensemble}
    )


def test_several_checkpoints_are_summed_up_and_linked():
    html = report.render(tree_of(plan.mixed(), plan.mode_c(), plan.DEGENERATE["no labels"]()))
    assert "<title>Attractor landscape of mixed, narrow, planted · eqrlab</title>" in html
    for k, name in enumerate(("mixed", "narrow", "planted"), 1):
        assert f'<a href="#checkpoint-{k}">{name}</a>' in html and f'id="checkpoint-{k}"' in html
    assert "summary" not in words(report.render(tree_of(plan.mode_c())))


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ("mmm", ["m", "m-2", "m-3"]),
        (["m (3)", "m", "m"], ["m (3)", "m", "m-2"]),
        (["m-2", "m", "m"], ["m-2", "m", "m-3"]),
    ],
)
def test_checkpoints_of_one_name_are_told_apart(names, shown):
    groups = {f"{k}/ensemble": plan.mode_c()["ensemble"].assign_attrs(name=n) for k, n in enumerate(names)}
    assert list(report.checkpoints(xr.DataTree.from_dict(groups))) == shown


def compared(*results: plan.Groups) -> xr.DataTree:
    tree = tree_of(*results)
    tree["compare"] = xr.DataTree(compare(report.checkpoints(tree)))
    return tree


def test_a_comparison_opens_with_differences_and_folds_the_diagnoses():
    one = plan.planted(plan.selector([[0.0], [0.1], [-0.1], [0.05]]), [[2]] * 4, name="coexisting")
    ensemble = one["ensemble"].assign(correct=one["ensemble"].correct & (one["ensemble"].restart < 8))
    tree = compared(one, plan.groups_of(ensemble.copy(), "worse"))
    html = report.render(tree)
    text = words(html)
    assert text.index("worse beside coexisting: one restart is right less often") < text.index(
        "Single diagnoses".lower()
    )
    assert "The same 4 puzzles and seeds for all: " in text
    other = tree.copy(deep=True)
    other["worse/ensemble"].attrs["seed"] = 9
    assert "The same 4 puzzles for all, under different seeds: " in words(report.render(other))
    table = comparison_table(tree["compare"].to_dataset())
    for rows in table.values():
        assert all(row["quantity"] in text and row["over"] in text for row in rows)
    assert html.count('<details class="diagnosis">') == 2 and "Modes and masses" in text
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids)) and {"checkpoint-1", "checkpoint-2"} <= set(ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', html)) <= set(ids)


def test_a_comparison_of_before_is_made_again_and_one_of_other_checkpoints_is_refused():
    tree = compared(plan.mode_b(), plan.groups_of(plan.mode_b()["ensemble"].copy(), "again"))
    groups = {node.path: node.to_dataset() for node in tree.subtree if node.data_vars}
    old = groups["/compare"].drop_vars([v for v in groups["/compare"] if str(v).startswith("puzzle_value")])
    assert report.render(xr.DataTree.from_dict({**groups, "/compare": old})) == report.render(tree)
    with pytest.raises(ValueError, match="group compare has other checkpoints"):
        report.render(xr.DataTree.from_dict({**groups, "/compare": old.isel(checkpoint=[0])}))


def test_unknown_groups_are_left_out_and_missing_ones_derived(mixed):
    groups = dict(plan.mixed())
    tree = xr.DataTree.from_dict({**groups, "spectrum": groups["modes"], "other/spectrum": groups["modes"]})
    assert report.render(tree) == mixed
    assert words(report.render(xr.DataTree.from_dict({"ensemble": groups["ensemble"]}))) == words(mixed)


def test_archives_without_ensemble_are_refused(tmp_path):
    archive.write(tmp_path / "empty.nc", {"modes": plan.mode_b()["modes"]})
    with pytest.raises(ValueError, match="no group named ensemble"):
        report.write_report(tmp_path / "empty.nc", tmp_path / "report.html")
    with pytest.raises(ValueError, match="no such file"):
        report.write_report(tmp_path / "missing.nc", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_folder_is_no_archive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(inside("report", "."), "is a directory")


def test_names_from_the_archive_cannot_become_markup():
    groups = {k: v.copy() for k, v in plan.mode_b().items()}
    groups["ensemble"].attrs |= {
        "name": "<script>alert(1)</script>",
        "task": '"><img src=x>',
        "config": '{"<b>": "<i>"}',
    }
    html = report.render(xr.DataTree.from_dict(groups))
    assert "<script" not in html and "<img" not in html and "<i>" not in html and "<b>&" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


@pytest.mark.parametrize("name", plan.DEGENERATE)
def test_degenerate_ensembles_have_a_report(name):
    groups = plan.DEGENERATE[name]()
    html = report.render(tree_of(groups))
    text = words(html)
    assert len(html) < 3_000_000 and " nan" not in text.lower() and "{{" not in html and "None" not in text
    if "modes" in groups:
        assert report._figures(wording.mode_sentence(groups["modes"])).replace("\u00a0", " ") in text
    else:
        assert "No verdict: the archive has neither labels nor an oracle" in text
    if name == "no attractors":
        assert "No run of this puzzle reached an attractor" in text
        sure = [groups | {"basins": groups["basins"].assign_attrs(confidence=c)} for c in (0.5, 0.95)]
        assert len({puzzle_boards.puzzle_boards(g, 0)["boards"][0]["mass"] for g in sure}) == 2
    if name == "many attractors":
        more = int(groups["basins"].attractors[0]) - puzzle_boards.BOARDS
        assert f"{more:,} more attractors are not shown" in text
    assert ("Phase picture" in text) == (name != "no path kept")


def test_optional_variables_may_be_missing():
    groups = dict(plan.mode_b())
    assert "halt_logit" not in groups["ensemble"]
    groups["ensemble"] = groups["ensemble"].drop_vars(["token_accuracy", "sketch_path", "labels", "inputs"])
    assert "Mode (b)" in report.render(xr.DataTree.from_dict(groups))


def test_telling_puzzles_are_the_clearest_of_each_mode_and_the_most_uncertain():
    chosen = telling_puzzles(plan.mixed())
    names = wording.puzzle_modes(plan.mixed()["modes"])
    chance = plan.mixed()["modes"].mode_probability.values
    assert [r for _, r in chosen[:3]] == [f"clearest example of mode ({m})" for m in "abd"]
    for (p, _), letter in zip(chosen, "abd", strict=False):
        m = MODES.index(letter)
        assert names[p] == letter and chance[p, m] == max(
            chance[q, m] for q in range(8) if names[q] == letter
        )
    unsure = telling_puzzles(plan.unfinished())
    assert unsure == [(0, "most uncertain verdict")]


def test_provenance_takes_json_apart():
    sections = dict(tables.provenance(plan.mixed()))
    assert ("seed", "0") in sections["Run"] and ("falling", "-0.7") in sections["Tolerances"]
    assert ("broad", "0.9") in sections["Modes"]


# decoded answers


@pytest.mark.parametrize(("side", "box"), [(4, (2, 2)), (6, (2, 3)), (9, (3, 3))])
def test_sudoku_boards_have_boxes_givens_and_marks(side, box):
    solution = plan.sudoku_solution(side)
    given, answer = np.where(np.arange(side**2) == side + 1, solution, 1), solution.copy()
    answer[0] = answer[1]
    html = str(board(task(f"sudoku{side}"), answer, given, solution, False))
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    cells = [re.findall(r"<td([^>]*)>(.)</td>", row) for row in rows]
    assert [[int(digit) + 1 for _, digit in row] for row in cells] == answer.reshape(side, side).tolist()
    assert [r for r in range(side) if "bt" in cells[r][0][0]] == list(range(0, side, box[0]))
    assert [c for c in range(side) if "bl" in cells[0][c][0]] == list(range(0, side, box[1]))
    assert html.count("given") == 1 and "given" in cells[1][1][0]
    assert html.count("bad") == 1 and f'title="should be {solution[0] - 1}"' in cells[0][0][0]
    assert f"1 of {side * side} cells wrong" in html


def test_without_labels_cells_in_conflict_and_changed_givens_are_marked():
    solution = plan.sudoku_solution(6)
    answer = solution.copy()
    answer[[0, 1]] = answer[[1, 0]]  # a conflict in both columns, none in the row
    found = wrong_cells(task("sudoku6"), answer, np.ones(36, int), None, False)
    expected = {0, 1} | {k for k in range(6, 36) if (answer[k], k % 6) in ((answer[0], 0), (answer[1], 1))}
    assert set(np.flatnonzero(found)) == expected and len(expected) == 4
    swapped = np.where(solution == 2, 3, np.where(solution == 3, 2, solution))
    given = np.where(np.arange(36) == 0, solution, 1)
    assert set(np.flatnonzero(wrong_cells(task("sudoku6"), swapped, given, None, False))) == {0}
    assert not wrong_cells(task("sudoku6"), swapped, given, solution, True).any()


def test_oracle_without_labels_marks_the_wrong_attractor_in_the_report():
    html = report.render(tree_of(plan.sudoku(6, False)))
    drawn = re.findall(r'<table class="board n6".*?</table>', html, flags=re.S)
    assert sorted({b.count("bad") for b in drawn}) == [0, 4]


def test_mazes_are_drawn_cell_by_cell():
    groups = plan.maze()
    answer = groups["ensemble"].labels.values[0]
    html = str(board(task("maze7"), answer, groups["ensemble"].inputs.values[0], answer, True))
    walls = re.search(r'fill:var\(--wall\)" d="([^"]*)"', html)[1]
    assert sum(int(n) for n in re.findall(r"h(\d+)", walls)) == int((answer == 1).sum())
    assert "var(--start)" in html and "var(--goal)" in html and "bad" not in html
    wrong = np.where(np.arange(49) == 9, 2, answer)
    assert str(board(task("maze7"), wrong, None, answer, False)).count("M2.2 1.2") == 2  # and its rim


def test_unknown_tasks_show_tokens_and_long_answers_are_cut():
    unknown = boards.task_of("chess", boards.LISTED + 19)
    html = str(board(unknown, np.arange(boards.LISTED + 19), None, np.full(boards.LISTED + 19, 3), False))
    assert "and 19 more" in html and "<span>3</span>" in html
    assert '<span class="bad" title="should be 3">0</span>' in html
    assert boards.task_of("sudoku6", 20).board == (1, 20)  # an archive that says what cannot be


def test_generic_grids_are_tables_of_rows_and_columns():
    known = task("generic-2x3-v200")
    answer, label = np.array([1, 20, 199, 0, 5, 6]), np.array([1, 20, 100, 0, 5, 6])
    html = str(board(known, answer, None, label, False))
    rows = [re.findall(r">(\d+)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    assert rows == [["1", "20", "199"], ["0", "5", "6"]]
    assert html.count("bad") == 1 and 'title="should be 100"' in html
    assert "given" not in str(board(known, answer, answer, label, False))


def test_pictures_of_arc_show_the_grid_in_its_colours_and_no_more():
    known = task("arc")
    grid = np.zeros((30, 30), int)
    grid[:2, :3] = [[2, 3, 4], [5, 6, 7]]
    grid[2, :3] = grid[:2, 3] = 1
    html = str(board(known, grid.ravel(), None, grid.ravel(), True))
    assert 'viewBox="0 0 4 3"' in html
    for token, colour in known.colours.items():
        assert (colour in html) == (token in grid)
    noise = np.where(grid == 0, 9, grid)  # where nothing counts
    assert 'viewBox="0 0 4 3"' in str(board(known, noise.ravel(), None, grid.ravel(), True))


# the page in a browser

LAYOUT = """(() => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const width = innerWidth, wrong = [];
  const box = e => e.getBoundingClientRect();
  const name = e => `${e.tagName}.${e.getAttribute("class") || ""} "${(e.textContent || "").trim().slice(0, 30)}"`;
  const shown = e => { const b = box(e); return b.width > 0 && b.height > 0; };
  const overlap = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
                         && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2.5;
  const apart = list => list.forEach((e, i) => list.slice(i + 1).forEach(f => {
    if (!e.contains(f) && !f.contains(e) && overlap(box(e), box(f))) wrong.push(`${name(e)} overlaps ${name(f)}`); }));
  const blocks = "h1,h2,h3,h4,.lead,.card,figcaption,.caption,svg.plot,.tiles>li,.strip,.fates,.fate-list,.scroll,"
    + ".boards>div,.warn,dd,dt";
  apart([...document.querySelectorAll(blocks)].filter(shown));
  for (const svg of document.querySelectorAll("svg.plot")) {
    const texts = [...svg.querySelectorAll("text")].filter(t => shown(t) && !/^\\d$/.test(t.textContent));
    apart(texts);
    const card = box(svg.closest(".card"));
    for (const t of texts)
      if (box(t).left < card.left || box(t).right > card.right) wrong.push(`${name(t)} leaves its card`);
  }
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest(".scroll") || e.closest("svg")) continue;
    const b = box(e);
    if (b.right > width + 0.5 || b.left < -0.5) wrong.push(`${name(e)} leaves the page`);
  }
  const sizes = [...document.querySelectorAll("svg.plot text")].filter(shown).map(t =>
    parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a);
  const columns = new Set([...document.querySelectorAll(".columns .card")].map(e => Math.round(box(e).left))).size;
  return {scroll: document.documentElement.scrollWidth, wrong: [...new Set(wrong)].slice(0, 8), columns,
          smallest: Math.min(...sizes), figures: sizes.length, title: document.title};
})()"""


@pytest.fixture(scope="module")
def browser():
    program = find_chromium()
    if program is None:
        pytest.skip("needs chromium, chromium-browser or google-chrome on the path")
    with Browser(program) as opened:
        yield opened


def test_page_is_clean_and_readable_in_a_browser_wide_narrow_and_printed(browser, pytestconfig, tmp_path):
    results = (plan.mixed(), plan.sudoku(), plan.maze())
    results += tuple(plan.DEGENERATE[n]() for n in ("no labels", "many attractors", "240 puzzles"))
    page, groups = (
        tmp_path / "report.html",
        {f"planted-{k}-with-a-rather-long-name": r for k, r in enumerate(results)},
    )
    page.write_text(report.render(xr.DataTree.from_dict(archive_groups(groups))), encoding="utf-8")
    kept = pytestconfig.rootpath / "out" / "screenshots"
    for width, dark, columns in ((1280, False, 2), (768, True, 1), (390, False, 1)):
        browser.open(page, width, dark)
        layout = browser.run(LAYOUT)
        browser.screenshot(kept / f"report-{width}{'-dark' if dark else ''}.png", 0, 6000)
        assert browser.complaints() == []
        assert browser.requests() == [page.resolve().as_uri()]
        assert layout["wrong"] == [], json.dumps(layout["wrong"], indent=1)
        assert layout["scroll"] <= width and layout["columns"] == columns, width
        assert layout["smallest"] >= 9.5 and layout["figures"] > 100, width
        assert layout["title"].startswith("Attractor landscape of ")
    assert len(browser.send("Page.printToPDF", printBackground=True)["data"]) > 100_000


PRINTED = """(() => {
  const width = innerWidth, wrong = [];
  const name = e => `${e.tagName}.${e.getAttribute("class") || ""} "${(e.textContent || "").trim().slice(0, 30)}"`;
  for (const e of document.querySelectorAll("details"))
    if (e.getBoundingClientRect().height < 150) wrong.push(`${name(e)} is not printed`);
  for (const e of document.querySelectorAll(".card table.data")) {
    const card = e.closest(".card").getBoundingClientRect();
    if (e.getBoundingClientRect().right > card.right) wrong.push(`${name(e)} is cut by its card`);
  }
  for (const e of document.querySelectorAll("body *")) {
    const b = e.getBoundingClientRect();
    if (!e.closest("svg") && (b.right > width + 0.5 || b.left < -0.5)) wrong.push(`${name(e)} leaves the page`);
    const heading = /^H[1-4]$/.test(e.tagName);
    if (heading && getComputedStyle(e).breakAfter !== "avoid") wrong.push(`${name(e)} may stand alone`);
  }
  return [...new Set(wrong)].slice(0, 8);
})()"""
CUES = """[...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1).map(e =>
  [getComputedStyle(e).overflowX, getComputedStyle(e).backgroundImage.split("linear-gradient").length - 1])"""


@pytest.fixture(scope="module")
def comparison_page(tmp_path_factory):
    page = tmp_path_factory.mktemp("comparison") / "report.html"
    named = {f"coexisting-{k}-with-a-rather-long-name": plan.mode_b() for k in range(3)}
    tree = xr.DataTree.from_dict(archive_groups(named))
    found = {f"coexisting-{k}-with-a-rather-long-name": plan.mode_b() for k in range(3)}
    tree["compare"] = xr.DataTree(compare(found))
    page.write_text(report.render(tree), encoding="utf-8")
    return page


@pytest.mark.parametrize("width", [1280, 390])
def test_a_comparison_fits_the_page_and_tables_that_scroll_say_so(
    browser, pytestconfig, comparison_page, width
):
    browser.open(comparison_page, width)
    layout = browser.run(LAYOUT)
    browser.screenshot(pytestconfig.rootpath / "out" / "screenshots" / f"comparison-{width}.png", 0, 6000)
    assert layout["wrong"] == [] and layout["scroll"] <= width and browser.complaints() == []
    cues = browser.run(CUES)
    assert all(cue == ["auto", 4] for cue in cues) and (cues or width > 390)


def test_what_is_printed_is_whole(browser, comparison_page):
    """Nothing leaves the paper, headings stay with what follows, and what is folded on the screen is printed."""
    browser.open(comparison_page, 718)  # A4 less its margins
    assert any("is not printed" in w for w in browser.run(PRINTED)), "on the screen it is folded"
    browser.send("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.run(PRINTED) == []
    finally:
        browser.send("Emulation.setEmulatedMedia", media="")


def test_what_the_browser_test_looks_for_it_finds(browser, tmp_path, mixed):
    """The same measurements, on a report that is broken on purpose."""
    bad = (
        '<img src="https://example.invalid/x.png"><p style="width: 2000px">wide</p>'
        '<div class="card" style="position: absolute; top: 700px; left: 10px; width: 300px; height: 300px">on top</div>'
    )
    page = tmp_path / "broken.html"
    page.write_text(mixed.replace("<main>", "<main>" + bad), encoding="utf-8")
    browser.open(page, 1280)
    layout = browser.run(LAYOUT)
    assert layout["scroll"] > 1280 and any("overlaps" in w for w in layout["wrong"])
    assert any("leaves the page" in w for w in layout["wrong"])
    assert browser.complaints() or len(browser.requests()) > 1


def luminance(colour: str) -> float:
    digits = colour.lstrip("#") if len(colour) == 7 else "".join(2 * c for c in colour.lstrip("#"))
    levels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(scheme, mixed):
    roots = [
        dict(re.findall(r"--([\w-]+): (#\w+);", text)) for text in re.findall(r":root \{(.*?)\}", mixed, re.S)
    ]
    colours = roots[0] if scheme == "light" else roots[0] | roots[1]
    pairs = [(text, ground) for text in ("ink", "muted") for ground in ("card", "page", "soft", "alarm")]
    pairs += [("card", "right"), *((f"on-mode-{m}", f"mode-{m}") for m in MODES)]
    for pair in pairs:
        dark, light = sorted(luminance(colours[name]) for name in pair)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, pair
