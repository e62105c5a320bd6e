"""Means over training seeds and puzzles: intervals against exact ones, coverage, and recipes compared."""

import numpy as np
import pytest

from eqrlab.analyses.compare import GAP, compare, over_seeds
from eqrlab.analyses.text.comparison import recipe_table, seeds_sentence, table_rows
from eqrlab.analyses.text.names import shown_name
from eqrlab.attractors.results import archive
from eqrlab.attractors.results.validate import validate
from eqrlab.attractors.statistics.bootstrap import mean_where_defined
from eqrlab.attractors.statistics.seeds import mean_over_seeds
from tests.command_line import inside
from tests.core_models import tiny_file
from tests.test_compare import planted
from tests.zoo import up_mass


def test_the_interval_of_seeds_alone_is_students():
    values = np.repeat([[0.2], [0.3], [0.4]], 10, axis=1)  # all puzzles alike
    found = mean_over_seeds(mean_where_defined(values), 10)
    half = 4.302652729749464 * 0.1 / np.sqrt(3)
    assert found.mean == pytest.approx(0.3) and found.seeds.tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert (found.low, found.high) == (pytest.approx(0.3 - half), pytest.approx(0.3 + half))


def test_the_interval_of_puzzles_alone_is_students_too():
    values = np.tile(np.arange(11) / 10, (3, 1))  # all seeds alike
    found = mean_over_seeds(mean_where_defined(values), 11)
    half = 2.2281388519649385 * np.std(values[0], ddof=1) / np.sqrt(11)
    assert found.high - found.mean == pytest.approx(half)


def test_intervals_cover_the_truth_when_seeds_and_puzzles_both_vary():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        values = (
            0.5
            + 0.05 * rng.normal(size=(3, 1))
            + 0.2 * rng.normal(size=(1, 24))
            + 0.1 * rng.normal(size=(3, 24))
        )
        found = mean_over_seeds(mean_where_defined(values), 24, bounds=(-9.0, 9.0))
        hits += found.low < 0.5 < found.high
    assert 0.92 * 300 <= hits


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.1), (2, 0.03), (3, 0.06), (5, 0.03)])
def test_few_seeds_keep_the_coverage_asked_for(seeds, spread):
    """Satterthwaite's interval alone covers 87 % with two seeds whose variance is ten times that of the puzzles."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        values = 0.5 + spread * rng.normal(size=(seeds, 1)) + 0.15 * rng.normal(size=(1, 40))
        found = mean_over_seeds(mean_where_defined(values), 40, bounds=(-9.0, 9.0))
        hits += found.low < 0.5 < found.high
    assert 0.935 * 1000 <= hits


def test_pairing_removes_what_puzzles_have_in_common():
    rng = np.random.default_rng(2)
    hard = rng.random((1, 24))
    lower = np.repeat(hard, 3, axis=0)
    upper = lower + 0.1 + 0.001 * rng.normal(size=(3, 24))
    found = mean_over_seeds(mean_where_defined(upper - lower), 24, bounds=(-1.0, 1.0))
    assert 0.09 < found.low < found.mean < found.high < 0.11


def test_an_interval_that_cannot_be_is_not_given():
    one_seed = mean_over_seeds(mean_where_defined(np.random.default_rng(0).random((1, 9))), 9)
    assert np.isfinite(one_seed.mean) and np.isnan([one_seed.low, one_seed.high]).all()
    nothing = mean_over_seeds(mean_where_defined(np.full((3, 9), np.nan)), 9)
    assert np.isnan([nothing.mean, nothing.low]).all()
    alike = mean_over_seeds(mean_where_defined(np.ones((3, 24))), 24)
    assert alike.low == pytest.approx(0.05 ** (1 / 24)) and alike.high == 1


OFFSETS = np.linspace(-1, 1, 6)


@pytest.fixture(scope="module")
def four():
    """Two recipes of two seeds: the second recipe's masses are lower, by a known amount."""
    runs = {"wide-1": 0.0, "wide-2": 0.1, "narrow-1": 0.5, "narrow-2": 0.6}
    return compare({name: planted(OFFSETS + more, seed=s) for s, (name, more) in enumerate(runs.items())})


def test_recipes_are_means_over_their_seeds(four):
    found = over_seeds(four, 2)
    assert list(found.recipe.values) == ["wide", "narrow"]
    assert found.runs.values.tolist() == [["wide-1", "wide-2"], ["narrow-1", "narrow-2"]]
    mass = found.sel(quantity="correct mass")
    truth = np.array(
        [[np.mean([up_mass(b + s) for b in OFFSETS]) for s in r] for r in ((0.0, 0.1), (0.5, 0.6))]
    )
    np.testing.assert_allclose(mass.seed_value, truth, atol=0.03)
    np.testing.assert_allclose(mass.value, mass.seed_value.mean("seed"), atol=1e-12)
    np.testing.assert_allclose(mass.seed_difference, mass.seed_value - mass.seed_value[0], atol=1e-12)
    values = four.puzzle_value.sel(quantity="correct mass").values
    direct = mean_over_seeds(mean_where_defined(values[2:] - values[:2]), 6, bounds=(-1.0, 1.0))
    assert (
        float(mass.difference[1]) == direct.mean == pytest.approx(truth[1].mean() - truth[0].mean(), abs=0.03)
    )
    assert [float(mass[f"difference_{end}"][1]) for end in ("low", "high")] == [direct.low, direct.high]


def test_quantities_of_no_known_range_need_puzzles(four):
    steps = over_seeds(four, 2).sel(quantity="settling step of right runs")
    assert np.isfinite(steps.difference_low[1]) and float(steps.difference_low[1]) < float(
        steps.difference[1]
    )
    few = over_seeds(four.isel(puzzle=slice(4)), 2).sel(quantity="settling step of right runs")
    assert np.isfinite(few.difference[1]) and np.isnan(few.difference_low[1]), "4 puzzles are too few"


def test_the_table_of_recipes_says_what_is_subtracted(four):
    found = over_seeds(four, 2)
    rows = table_rows(recipe_table(found))
    assert list(rows[0]) == ["quantity", "wide", "narrow", "difference [95 % interval]"]
    row = next(r for r in rows if r["quantity"].strip() == "one restart")
    value = 100 * float(found.difference.sel(recipe="narrow", quantity="accuracy, mean"))
    assert row["difference [95 % interval]"].startswith(f"{value:+.1f} points [")
    gap = next(r for r in rows if r["quantity"].strip() == GAP)
    assert gap["wide"].partition(" %")[0] == f"{100 * float(found.value.sel(quantity=GAP)[0]):.1f}"
    assert seeds_sentence(found).count(",") == 4


@pytest.mark.parametrize("count, seeds", [(4, 3), (4, 4), (4, 1), (2, 2)])
def test_checkpoints_that_are_no_recipes_are_refused(four, count, seeds):
    with pytest.raises(ValueError, match="not two or more recipes"):
        over_seeds(four.isel(checkpoint=slice(count)), seeds)


PUZZLES = "puzzle,solution\n1234341223414.23,1234341223414123\n12343412.3414123,1234341223414123\n"


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Archives of `eqrlab scale` of four small models, each called model.safetensors as training writes it."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "four.csv").write_text(PUZZLES)
    files = []
    for name, size in (("a-0", 8), ("a-1", 12), ("b-0", 16), ("b-1", 20)):
        (folder / name).mkdir()
        model = tiny_file(folder / name / "model.safetensors", hidden_size=size)
        run = inside("scale", model, "--puzzles", folder / "four.csv", "--depths", "4", "--breadths", "1,3",
                     "--out", folder / name, "--quiet")  # fmt: skip
        assert run.exit_code == 0, run.output
        files.append(folder / name / "scaling.nc")
    return files


def test_archives_are_compared_as_their_checkpoints_are(archives, tmp_path):
    run = inside("compare", *archives, "--seeds", 2, "--out", tmp_path / "stored", "--quiet")
    assert run.exit_code == 0, run.output
    assert "b beside a: " in run.output and "each seed: a " in run.output
    stored = archive.read(tmp_path / "stored" / "compare.nc")
    assert list(stored["compare"].checkpoint.values) == ["a-0", "a-1", "b-0", "b-1"]
    assert "recipes" in stored.children and validate(tmp_path / "stored" / "compare.nc").checksums
    models = [file.with_name("model.safetensors") for file in archives]
    run = inside("compare", *models, "--seeds", 2, "--puzzles", archives[0].parents[1] / "four.csv", "--restarts", 3,
                 "--depth", 4, "--no-local", "--no-checks", "--out", tmp_path / "run", "--quiet")  # fmt: skip
    assert run.exit_code == 0, run.output
    again = archive.read(tmp_path / "run" / "compare.nc")
    for name in ("value", "value_low", "difference", "seed_value"):
        np.testing.assert_array_equal(stored["recipes"][name], again["recipes"][name])
    for page in (tmp_path / "stored" / "report.html", tmp_path / "run" / "report.html"):
        assert "Recipes over their seeds" in page.read_text()
    run = inside("report", tmp_path / "stored" / "compare.nc", "--format", "md")
    text = (tmp_path / "stored" / "report.md").read_text()
    assert "## Recipes over their seeds" in text and "--seeds 2" in text


def test_a_resumed_comparison_takes_no_recipes_from_before(archives, tmp_path):
    models = [file.with_name("model.safetensors") for file in archives]
    same = ("compare", *models, "--puzzles", archives[0].parents[1] / "four.csv", "--restarts", 2, "--depth", 3,
            "--no-local", "--no-checks", "--out", tmp_path, "--quiet")  # fmt: skip
    for more, there in ((("--seeds", 2), True), (("--resume",), False), (("--resume", "--seeds", 2), True)):
        run = inside(*same, *more)
        assert run.exit_code == 0, run.output
        assert ("recipes" in archive.read(tmp_path / "compare.nc").children) is there


def test_runs_are_called_by_their_folders(archives, tmp_path):
    model = archives[0].with_name("model.safetensors")
    taken = [shown_name(str(model), ()), shown_name(str(model.parent), ()), shown_name(str(archives[0]), ())]
    assert taken == ["a-0", "a-0", "scaling"]
    (tmp_path / "lr0.1").mkdir()
    assert shown_name(str(tmp_path / "lr0.1"), ("lr0.1",)) == "lr0.1-2"
    assert shown_name("eqr-sudoku6", ()) == "eqr-sudoku6"


def test_misuse_of_archives_and_seeds_is_named(archives, tmp_path):
    common = ("--out", tmp_path, "--quiet")
    for arguments, reason in (
        ((*archives, "--restarts", 3), "leave out --restarts"),
        ((archives[0], "eqr-sudoku6"), "not both"),
        ((*archives[:3], "--seeds", 2), "3 checkpoints are not two or more recipes of 2 seeds"),
        (("eqr-sudoku6", "trm-sudoku6", "hrm-sudoku6", "--seeds", 2), "3 checkpoints are not"),
        ((archives[0],), "at least two checkpoints"),
    ):
        run = inside("compare", *arguments, *common)
        assert run.exit_code in (1, 2) and reason in f"{run.output} {run.exception}", run.output
    model, puzzles = archives[0].with_name("model.safetensors"), archives[0].parents[1] / "four.csv"
    other = inside("scale", model, "--puzzles", puzzles, "--depths", 3, "--breadths", 3, *common)
    assert other.exit_code == 0, other.output
    run = inside("compare", archives[1], tmp_path / "scaling.nc", *common)
    assert run.exit_code == 1 and "a-0 has 3 of 3" in str(run.exception)
