"""ARC: disguises undone, boards cropped, and the vote of the official evaluators reproduced exactly."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from eqrlab.datasets import arc
from eqrlab.datasets.arc.disguise import turned
from eqrlab.datasets.arc.vote import undone

GRID = np.array([[1, 2, 3], [4, 0, 5]])


# The reference files -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(shared):
    folder = shared / "conformance" / "data" / "arc_small"
    names = json.loads((folder / "identifiers.json").read_text())
    tests = json.loads((folder / "test_puzzles.json").read_text())
    values = {k: np.load(folder / "test" / f"all__{k}.npy") for k in ("inputs", "labels", "puzzle_indices")}
    puzzle = np.repeat(
        np.load(folder / "test" / "all__puzzle_identifiers.npy"), np.diff(values["puzzle_indices"])
    )
    return values["inputs"], values["labels"], [names[i] for i in puzzle], tests


def told(candidate):
    """Return what votes.json says of an answer."""
    grid = candidate.grid
    cells = np.ascontiguousarray(grid, np.uint8).tobytes()
    digest = hashlib.sha256(bytes(grid.shape) + cells).hexdigest()
    return {
        "shape": list(grid.shape), "votes": candidate.votes, "correct": candidate.correct, "sha256": digest,
        "grid": grid.tolist() if grid.size else [],
    }  # fmt: skip


def agrees(cases, ranked, want):
    """Compare ranked answers, pass@K and submission with a reference, exactly; halting probabilities to rounding."""
    by_task = {}
    for case, candidates in zip(cases, ranked, strict=True):
        by_task.setdefault(case.task, []).append(candidates)
    assert set(by_task) == set(want["votes"])
    compared = 0
    for task, tests in want["votes"].items():
        assert len(tests) == len(by_task[task])
        for expected, candidates in zip(tests, by_task[task], strict=True):
            more = expected[-1].get("further", 0)  # beyond eight they are only counted
            assert len(expected) - (more > 0) + more == len(candidates)
            for one, other in zip(expected[: len(expected) - (more > 0)], candidates, strict=False):
                got = told(other)
                if not isinstance(one.get("grid"), list):  # too large to be written out; its hash is there
                    del got["grid"]
                assert one["mean_halt_probability"] == pytest.approx(other.halt, rel=1e-12)
                assert {k: v for k, v in one.items() if k in got} == got
                compared += 1
    for name, value in want["evaluator"].items():
        rates = arc.pass_at(cases, ranked, int(name.removeprefix("ARC/pass@")))
        assert sum(rates.values()) / len(rates) == value
    return compared


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.parametrize("model", ["trm_arc", "hrm_arc"])
@pytest.mark.parametrize("step", [1, 2, 4, 16])
def test_votes_ranks_and_pass_rates_are_those_of_the_official_evaluator(shared, small, model, step):
    folder = shared / "conformance" / model
    want = json.loads((folder / "votes.json").read_text())["steps"][str(step)]
    inputs, labels, names, tests = small
    with np.load(folder / "test_preds.npz") as file:
        rows, answers, halt = file["inputs_row"], file[f"preds_{step}"], sigmoid(file[f"q_halt_{step}"])
    names = [names[row] for row in rows]
    for known in (tests, None):  # the tests by themselves, or as the puzzles show them
        cases = arc.cases_of(inputs[rows], labels[rows], names, known)
        ranked = [arc.vote(case, answers, halt, names) for case in cases]
        assert agrees(cases, ranked, want) >= 20
    for k in (1, 2):
        strict = arc.pass_at(cases, ranked, k, all_tests=True)
        assert sum(strict.values()) / len(strict) == want[f"all_tests_pass{k}"]
    if "submission" in want:
        assert arc.submission(cases, ranked) == want["submission"]


def test_the_constructed_vote_comes_out_as_it_must(shared, small):
    folder = shared / "conformance" / "data" / "arc_small"
    want = json.loads((folder / "vote_case.json").read_text())
    inputs, labels, names, tests = small
    with np.load(folder / "vote_case.npz") as file:
        rows, answers, halt = file["rows"], file["preds"], sigmoid(file["q_halt"])
    names = [names[row] for row in rows]
    cases = arc.cases_of(inputs[rows], labels[rows], names, tests)
    ranked = [arc.vote(case, answers, halt, names) for case in cases]
    assert agrees(cases, ranked, want) >= 20
    for k, value in want["all_tests_right"].items():
        strict = arc.pass_at(cases, ranked, int(k), all_tests=True)
        assert sum(strict.values()) / len(strict) == value


def test_all_boards_of_the_folder_are_written_again_from_their_grids(small):
    inputs, labels, names, tests = small
    for boards in (inputs, labels):
        for board in boards:
            assert np.array_equal(arc.board_of(arc.crop(board)), board)
    known = {t: [np.array(x["input"]).tolist() for x in v["test"]] for t, v in tests.items()}
    for grid, name in zip(undone(inputs, names), names, strict=True):
        assert grid.tolist() in known[arc.disguise_of(name).task]


# By itself -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetry", range(8))
@pytest.mark.parametrize("form", ["{}|||t{}|||{}", "{}_t{}_{}"])
def test_a_disguise_is_undone_whatever_the_form_of_its_name(symmetry, form):
    disguise = arc.disguise_of(form.format("a_b", symmetry, "0312456789"))
    assert disguise == ("a_b", symmetry, (0, 3, 1, 2, 4, 5, 6, 7, 8, 9))
    shown = disguise.apply(GRID)
    assert shown.shape == (GRID.shape if symmetry in (0, 2, 4, 5) else GRID.shape[::-1])
    assert (
        np.array_equal(disguise.undo(shown), GRID) and shown[(GRID == 0).nonzero() and (shown == 0)].size == 1
    )


def test_the_eight_symmetries_are_eight():
    assert len({turned(GRID, s).tobytes() + bytes(turned(GRID, s).shape) for s in range(8)}) == 8
    assert turned(GRID, 1).tolist() == [[3, 5], [2, 0], [1, 4]]  # counter-clockwise
    assert turned(GRID, 4).tolist() == [[3, 2, 1], [5, 0, 4]] and turned(GRID, 5).tolist() == [
        [4, 0, 5],
        [1, 2, 3],
    ]
    assert turned(GRID, 6).tolist() == [[1, 4], [2, 0], [3, 5]]
    assert turned(GRID, 7).tolist() == [[5, 3], [0, 2], [4, 1]]


@pytest.mark.parametrize("name", ["a|||t8|||0123456789", "a|||t1|||0123456788", "a_t9_0123456789"])
def test_a_name_that_tells_no_disguise_is_refused(name):
    with pytest.raises(ValueError, match="tells no disguise: t0 to t7 and each of the digits 0 to 9 once"):
        arc.disguise_of(name)


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        (np.zeros((31, 2), int), "a grid has at most 30 x 30 cells, got 31 x 2"),
        (np.array([[10]]), "colours are 0 to 9, got 10 to 10"),
        (np.array([[-1, 3]]), "colours are 0 to 9, got -1 to 3"),
        (np.zeros((0, 0), int), "a grid is rows of colours"),
        (np.array([[0.5]]), "a grid is rows of colours, got float64"),
    ],
)
def test_what_is_no_grid_is_refused(grid, reason):
    with pytest.raises(ValueError) as caught:
        arc.board_of(grid)
    assert reason in str(caught.value)


def board(grid):
    return arc.board_of(np.array(grid))


def test_votes_count_first_then_certainty_then_the_order_of_arrival():
    names = ["a"] * 6
    inputs = np.stack([board([[1]])] * 6)
    answers = np.stack([board([[k]]) for k in (3, 4, 4, 5, 3, 6)])
    (case,) = arc.cases_of(inputs, np.stack([board([[6]])] * 6), names)
    ranked = arc.vote(case, answers, np.array([0.1, 0.2, 0.1, 0.5, 0.2, 0.5]), names)
    assert [(c.grid.item(), c.votes) for c in ranked] == [(3, 2), (4, 2), (5, 1), (6, 1)]
    assert [arc.pass_at([case], [ranked], k)["a"] for k in (3, 4)] == [0.0, 1.0]
    several = arc.vote(case, answers.reshape(6, 1, 900).repeat(3, 1), np.full((6, 3), 0.5), names)
    assert [c.votes for c in several] == [6, 6, 3, 3]  # runs of a puzzle vote like puzzles


def test_tests_without_a_puzzle_count_as_wrong_and_are_not_submitted():
    tests = {
        "a": {"test": [{"input": [[1]], "output": [[2]]}, {"input": [[3]], "output": [[4]]}]},
        "b": {"test": []},
    }
    cases = arc.cases_of(board([[1]])[None], None, ["a"], tests)
    ranked = [arc.vote(case, board([[2]])[None], np.ones(1), ["a"]) for case in cases]
    assert [len(r) for r in ranked] == [1, 0] and arc.pass_at(cases, ranked, 1) == {"a": 0.5}
    assert arc.pass_at(cases, ranked, 1, all_tests=True) == {"a": 0.0}
    assert arc.submission(cases, ranked) == {"a": [{"attempt_1": [[2]], "attempt_2": [[2]]}]}


def test_a_shifted_grid_or_a_foreign_test_is_refused():
    shifted = np.roll(board([[1]]), 31)
    with pytest.raises(
        ValueError, match=r"puzzle 0 \(a\): its grid is not at the top left corner of the board"
    ):
        arc.cases_of(shifted[None], None, ["a"])
    tests = {"a": {"test": [{"input": [[1]], "output": [[2]]}]}}
    with pytest.raises(ValueError, match=r"shows none of the tests of 'a'"):
        arc.cases_of(board([[2]])[None], None, ["a"], tests)
    with pytest.raises(ValueError, match=r"the task 'b' is not in test_puzzles.json"):
        arc.cases_of(board([[2]])[None], None, ["b"], tests)
