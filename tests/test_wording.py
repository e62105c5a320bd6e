"""Verdicts in words say what the datasets say."""

import numpy as np
import pytest
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.text import verdicts as wording
from eqrlab.analyses.text.format import number, number_interval, percent, percent_interval, plural
from eqrlab.analyses.text.signals import trust_sentence
from eqrlab.analyses.text.vocabulary import (
    FATE_MEANINGS,
    MODE_NAMES,
    SELECTOR_NAMES,
    fate_meaning,
    mode_meaning,
    name_of,
)
from eqrlab.attractors.results.named import ADVICE_WORDS
from eqrlab.attractors.results.schema import ADVICE, FATES, MODES
from tests import planted as plan


@pytest.mark.parametrize(
    ("letter", "groups"), [("a", plan.mode_a), ("b", plan.mode_b), ("c", plan.mode_c), ("d", plan.mode_d)]
)
def test_sentence_names_the_mode_its_meaning_and_its_share(letter, groups):
    modes, alignment = groups()["modes"], groups()["alignment"]
    text = wording.landscape_sentence(modes, alignment)
    assert text.startswith(f"Mode ({letter}): {mode_meaning(letter)}.")
    share = float(modes.landscape_share[MODES.index(letter)])
    assert f"share over puzzles is {percent(share)}" in text


def test_sentence_recommends_what_the_mode_calls_for():
    for groups, what in (
        (plan.mode_a, "Retrain"),
        (plan.mode_b, "Run more restarts"),
        (plan.mode_d, "Depth is enough"),
    ):
        assert what in wording.landscape_sentence(groups()["modes"], groups()["alignment"])
    narrow = wording.landscape_sentence(plan.mode_c()["modes"], plan.mode_c()["alignment"])
    assert (
        "Run more restarts to reach the basin, and deeper" in narrow and "choose by top-1 converged" in narrow
    )


def test_unfinished_runs_are_undecided_and_ask_for_depth():
    text = wording.landscape_sentence(plan.unfinished()["modes"], plan.unfinished()["alignment"])
    assert text.startswith("Undecided: too little evidence on 4 of 4 puzzles; unfinished runs leave 100 %")
    assert "run deeper than 40 steps" in text


def test_few_restarts_are_undecided_and_ask_for_restarts():
    text = wording.landscape_sentence(plan.DEGENERATE["one restart"]()["modes"])
    assert text.startswith("Undecided: too little evidence on 3 of 3 puzzles")
    assert "run more than 1 restart." in text


def test_advice_names_the_other_puzzles_too():
    modes = plan.DEGENERATE["one restart"]()["modes"].copy(deep=True)
    modes.advice.values[:] = [ADVICE.index(a) for a in ("buy_restarts", "buy_restarts", "buy_depth")]
    sentence = "To decide, run more than 1 restart; runs are unfinished on 1 other puzzle: run deeper there."
    assert wording.advice_sentence(modes) == sentence
    modes.advice.values[1] = ADVICE.index("buy_depth")
    assert wording.advice_sentence(modes).endswith(
        "unfinished on 2 puzzles; 1 other puzzle needs more restarts."
    )


def test_puzzles_in_different_modes_are_called_a_split_not_too_little_evidence():
    modes = plan.mixed()["modes"]
    text = wording.landscape_sentence(modes)
    names = wording.puzzle_modes(modes)
    assert "no one mode prevails over 8 puzzles" in text and wording.is_split(modes)
    assert all(f"({m}) on {names.count(m)}" in text for m in "abd") and "too little" not in text
    assert wording.landscape_advice(modes) == "mixed: puzzle by puzzle"


def test_right_answers_without_attractor_are_not_called_hopeless():
    groups = plan.planted(plan.rotor_of_one_answer(), [[2]] * 3, restarts=64, depth=60)
    assert wording.landscape_mode(groups["modes"]) == "a"
    share = percent(float(groups["ensemble"].correct[:, :, -1].mean()))
    assert f"{share} of the runs are right in passing" in wording.landscape_sentence(
        groups["modes"], groups["alignment"]
    )


def test_residual_sentence_falls_back_on_the_last_depth_with_right_and_wrong():
    alignment = plan.DEGENERATE["all right"]()["alignment"]
    index = wording.auc_depth(alignment)
    assert index is not None and not np.isfinite(alignment.auc[-1])
    text = wording.residual_sentence(alignment)
    assert "At depth 40 every run is right, so the residual has nothing to separate" in text
    assert f"at depth {int(alignment.depth[index])}, the last with both" in text
    assert number(float(alignment.auc[index])) in text


def test_residual_sentence_says_when_it_is_never_defined():
    text = wording.residual_sentence(plan.mode_a()["alignment"])
    assert "every run is wrong" in text and text.endswith("nor has it at any smaller depth.")


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.97, 0.95, 0.99, "the residual tells right from wrong"),
        (0.8, 0.7, 0.9, "in part"),
        (0.6, 0.55, 0.65, "hardly"),
        (0.6, 0.45, 0.75, "does not tell"),
        (0.2, 0.1, 0.3, "misleads"),
        (1.0, 0.37, 1.0, "told right from wrong on these puzzles; with so few"),
        (0.05, 0.0, 0.6, "misled on these puzzles; with so few"),
        (0.5, np.nan, np.nan, "hardly told right from wrong here, on too few puzzles for an interval"),
        (0.95, np.nan, np.nan, "told right from wrong here, on too few puzzles for an interval"),
        (0.05, np.nan, np.nan, "misled here, on too few puzzles for an interval"),
    ],
)
def test_auc_is_read_with_its_interval(value, low, high, said):
    assert said in wording.auc_meaning(value, low, high)


def test_bounds_of_an_auc_are_shown_within_0_and_1():
    for groups in (plan.DEGENERATE["all right"](), plan.mode_c()):
        alignment = groups["alignment"]
        for i in np.flatnonzero(np.isfinite(alignment.auc.values)):
            bounds = wording.auc_text(alignment, i).partition("[")[2].rstrip("]").split(", ")
            assert all(0 <= float(b) <= 1 for b in bounds)


def test_best_selector_never_is_the_ceiling_and_the_cheapest_of_equals():
    assert wording.best_selector(plan.mode_c()["alignment"]) == "top1_converged"
    assert wording.best_selector(plan.mode_d()["alignment"]) == "mean"


def test_of_equal_selectors_the_best_is_that_of_the_trusted_signal():
    alignment, signals = (
        plan.mode_c()["alignment"].copy(deep=True),
        xr.Dataset(attrs={"trusted": "settle_time"}),
    )
    alignment.accuracy[:, -1] = 1.0
    assert wording.best_selector(alignment, signals) == "mean"
    alignment.accuracy[alignment.selector.values.tolist().index("mean"), -1] = 0.5
    assert wording.best_selector(alignment) != wording.best_selector(alignment, signals) == "settle_time"


def test_advice_names_the_selector_that_was_tried_on_other_puzzles():
    groups = plan.mode_b()
    best = wording.best_selector(groups["alignment"])
    signals = xr.Dataset(attrs={"trusted": "settle_time"})
    for given, name in ((signals, "settle_time"), (signals.assign_attrs(trusted="none"), best), (None, best)):
        text = wording.advice_sentence(groups["modes"], groups["alignment"], given)
        assert f"; choose by {SELECTOR_NAMES[name]}." in text


def test_one_restart_leaves_no_signal_to_trust():
    signals = at.signals(plan.DEGENERATE["one restart"]()["ensemble"])
    assert "with one restart of each puzzle there is nothing to choose between" in trust_sentence(signals)


@pytest.mark.parametrize(("case", "kind"), [("all right", "right"), ("all wrong", "wrong")])
def test_no_signal_is_recommended_where_all_choose_alike(case, kind):
    text = trust_sentence(at.signals(plan.DEGENERATE[case]()["ensemble"]))
    assert text == f"No signal is recommended: every run is {kind}, so that all signals choose alike."


def test_warning_where_the_least_residual_does_worse_than_the_majority():
    alignment = plan.mode_b()["alignment"].copy(deep=True)
    rows = list(alignment.selector.values)
    alignment.accuracy[rows.index("top1_converged"), -1] = 0.25
    alignment.accuracy[rows.index("majority"), -1] = 0.5
    assert "(25 %) does worse here than a majority vote (50 %)" in wording.selector_warning(alignment)
    alignment.accuracy[rows.index("top1_converged"), -1] = 0.5
    assert wording.selector_warning(alignment) is None


def test_rows_have_one_heading_set_and_the_numbers_of_the_datasets():
    groups = plan.mixed()
    rows = wording.verdict_rows(groups)
    assert len(rows) == 8 and len({tuple(r) for r in rows}) == 1
    for p, row in enumerate(rows):
        code = int(groups["modes"]["mode"].values[p])
        assert row["mode"] == MODES[code]
        assert row["advice"] == ADVICE_WORDS[ADVICE[int(groups["modes"].advice[p])]]
        assert row["correct mass"].startswith(percent(float(groups["basins"].correct_mass[p])))
        assert int(row["attractors"]) == int(groups["basins"].attractors[p])


def test_rows_without_labels_leave_the_verdict_out():
    rows = wording.verdict_rows(plan.DEGENERATE["no labels"]())
    assert "mode" not in rows[0] and "no attractor" in rows[0]


def test_summary_has_a_row_for_each_checkpoint():
    rows = wording.summary_rows(
        {"one": plan.mode_c(), "two": plan.mixed(), "three": plan.DEGENERATE["no labels"]()}
    )
    assert [r["checkpoint"] for r in rows] == ["one", "two", "three"]
    assert [r["mode"] for r in rows] == ["c", "undecided", "unknown"]
    assert rows[0]["best selector"].startswith("top-1 converged 100 %") and rows[1]["share"][0] in "abcd"
    assert rows[2]["advice"] == "needs labels or an oracle"


def test_every_code_has_words():
    assert (
        set(MODE_NAMES) == set(MODES)
        and set(FATE_MEANINGS) == set(FATES)
        and set(ADVICE_WORDS) == set(ADVICE)
    )
    assert set(map(str, plan.mode_b()["alignment"].selector.values)) <= set(SELECTOR_NAMES)


@pytest.mark.parametrize(
    "call",
    [lambda: mode_meaning("e"), lambda: name_of(ADVICE, 9, "advice"), lambda: fate_meaning("lost")],
)
def test_unknown_names_are_refused_by_name(call):
    with pytest.raises(ValueError, match=r"unknown; (choose from|codes run)"):
        call()


def test_percents_keep_a_decimal_near_the_ends():
    texts = [percent(x) for x in (0, 0.0004, 0.004, 0.0123, 0.5833, 0.99, 0.996, 0.9999, 1, np.nan)]
    assert texts == ["0 %", "0 %", "0.4 %", "1 %", "58 %", "99 %", "99.6 %", "100 %", "100 %", "undefined"]
    assert (
        percent_interval(0.5, 0.25, 0.755) == "50 % [25, 76]"
        and percent_interval(0.5, np.nan, np.nan) == "50 %"
    )
    assert number_interval(0.97, 0.95, 0.993) == "0.97 [0.95, 0.993]" and plural(1000, "run") == "1,000 runs"
