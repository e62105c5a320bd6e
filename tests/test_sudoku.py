"""Sudoku: oracle, solver, symmetries, fingerprints, generator."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eqrlab import datasets
from eqrlab.datasets.checks import faults, uniqueness
from eqrlab.datasets.generate import DIFFICULTIES, dig, generate, grade, parse_mix, random_solution
from eqrlab.datasets.solver import count_guesses, is_unique, search, solve
from eqrlab.datasets.sudoku import conflicts, first_conflict, geometry, sudoku_oracle
from eqrlab.datasets.symmetry import augment, fingerprint, random_symmetry

SIDES = (4, 6, 9)
HARD = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."
BOX = {4: (2, 2), 6: (2, 3), 9: (3, 3)}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def naive_valid(answer: np.ndarray, side: int) -> bool:
    """Check a board cell by cell, in another way than the package."""
    grid, (height, width) = answer.reshape(side, side), BOX[side]
    want = set(range(2, side + 2))
    boxes = [
        {int(grid[r + i, c + j]) for i in range(height) for j in range(width)}
        for r in range(0, side, height)
        for c in range(0, side, width)
    ]
    lines = [set(line.tolist()) for line in grid] + [set(line.tolist()) for line in grid.T]
    return all(unit == want for unit in lines + boxes)


@pytest.fixture(scope="module")
def boards_4x4() -> np.ndarray:
    rows = np.array(list(itertools.permutations(range(2, 6))))
    picks = np.array(list(itertools.product(range(24), repeat=4)))
    tokens = rows[picks].reshape(-1, 16)
    columns_ok = np.ones(len(tokens), dtype=bool)
    for cells in [range(c, 16, 4) for c in range(4)] + [(b, b + 1, b + 4, b + 5) for b in (0, 2, 8, 10)]:
        columns_ok &= (np.sort(tokens[:, list(cells)], axis=1) == np.arange(2, 6)).all(axis=1)
    return tokens[columns_ok]


def test_there_are_288_boards_of_4x4(boards_4x4):
    assert len(boards_4x4) == 288
    assert sudoku_oracle(np.ones_like(boards_4x4), boards_4x4).all()


@pytest.mark.parametrize("clues", [3, 4, 5, 6, 8])
def test_solver_finds_exactly_the_boards_that_keep_the_givens(boards_4x4, clues):
    draw = rng(clues)
    for _ in range(40):
        puzzle = np.ones(16, dtype=np.int64)
        cells = draw.choice(16, clues, replace=False)
        board = boards_4x4[draw.integers(288)]
        puzzle[cells] = board[cells]
        if draw.random() < 0.3:
            puzzle[cells[0]] = draw.integers(2, 6)
        expected = boards_4x4[((puzzle == 1) | (boards_4x4 == puzzle)).all(axis=1)]
        found = search(puzzle, limit=300)
        assert found.complete
        assert {row.tobytes() for row in found.solutions} == {row.tobytes() for row in expected}
        assert is_unique(puzzle) == (len(expected) == 1)


def test_solver_stops_at_the_limit():
    found = search(np.ones(81, dtype=int), limit=3)
    assert len(found.solutions) == 3 and not found.complete
    assert len(np.unique(found.solutions, axis=0)) == 3


def test_solver_refutes_givens_that_contradict_each_other():
    puzzle = np.ones(81, dtype=int)
    puzzle[[0, 8]] = 5
    assert search(puzzle).solutions.shape == (0, 81)
    assert uniqueness("sudoku9", puzzle[None])[0] == {0: "the puzzle has no solution"}


def test_a_very_hard_puzzle_is_solved_and_needs_guesses():
    puzzle = datasets.task("sudoku9").encode(HARD)
    solutions = solve(puzzle)
    assert len(solutions) == 1
    assert sudoku_oracle(puzzle[None], solutions).all()
    assert grade(puzzle)[0] == "extreme"


def test_guesses_agree_with_published_counts(shared):
    puzzles = datasets.read_puzzles(shared / "data/sudoku/top1465-part.csv.gz", limit=150)
    published = np.array(puzzles.columns["guesses"], dtype=int)
    ours = np.array([count_guesses(tokens) for tokens in puzzles.inputs])
    assert (ours == published).mean() > 0.8
    for tokens, label in zip(puzzles.inputs[:30], puzzles.labels, strict=False):
        assert (solve(tokens) == label).all()


@pytest.mark.parametrize("bad", [np.ones(80), np.full(81, 11), np.full(81, -1), np.ones((2, 81))])
def test_solver_refuses_what_is_no_board(bad):
    with pytest.raises(ValueError):
        solve(bad.astype(int))


def test_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="limit must be >= 1, got 0"):
        solve(np.ones(16, dtype=int), 0)


def test_sides_that_boxes_do_not_fill_are_refused():
    for side in (0, 3, 5, 23, 26):
        with pytest.raises(ValueError, match=f"side N of 4 to 25 that boxes fill .* got {side}"):
            geometry(side)
    with pytest.raises(ValueError, match=r"boxes of a 12x12 Sudoku are 3x4, 4x3, 2x6, 6x2, got \(12, 1\)"):
        geometry(12, (12, 1))


# --- oracle


@pytest.mark.parametrize("side", SIDES)
def test_oracle_agrees_with_a_naive_check_on_damaged_boards(side):
    draw = rng(side)
    boards = np.array([random_solution(side, draw) for _ in range(12)])
    answers = np.repeat(boards, 20, axis=0)
    for row in answers:
        cells = draw.choice(side * side, draw.integers(0, 3), replace=False)
        row[cells] = draw.integers(0, side + 3, len(cells))
    inputs = np.ones_like(answers)
    expected = [naive_valid(row, side) for row in answers]
    assert 12 <= sum(expected) < len(answers)
    np.testing.assert_array_equal(sudoku_oracle(inputs, answers), expected)


def test_a_puzzle_with_two_solutions_has_two_right_answers():
    puzzle = np.ones(81, dtype=int)
    solutions = solve(puzzle, 2)
    assert sudoku_oracle(np.stack([puzzle, puzzle]), solutions).all()


def test_a_valid_board_that_changes_a_given_is_wrong():
    solution = random_solution(6, rng())
    other = np.where(solution == 2, 3, np.where(solution == 3, 2, solution))
    assert sudoku_oracle(np.ones((1, 36), int), other[None])[0]
    assert not sudoku_oracle(solution[None], other[None])[0]


def test_oracle_takes_tensors_and_arrays_alike():
    puzzles = datasets.bundled("sudoku6")
    judge = datasets.oracle("sudoku6")
    right = judge(torch.from_numpy(puzzles.inputs), torch.from_numpy(puzzles.labels))
    assert isinstance(right, np.ndarray) and right.dtype == bool and right.all()
    assert not judge(puzzles.inputs, puzzles.inputs.astype(np.uint8)).any()
    assert judge.name == "sudoku validity"


def test_oracle_judges_more_rows_than_one_chunk():
    solution = random_solution(4, rng())
    answers = np.tile(solution, (70_000, 1))
    answers[69_999, 0] = answers[69_999, 1]
    good = sudoku_oracle(np.ones_like(answers), answers)
    assert good[:-1].all() and not good[-1]


def test_oracle_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match="equal shapes"):
        sudoku_oracle(np.ones((2, 36), int), np.ones((3, 36), int))
    with pytest.raises(ValueError, match=r"sudoku9 takes inputs \(n, 81\)"):
        datasets.oracle("sudoku9")(np.ones((2, 36), int), np.ones((2, 36), int))


def test_conflicts_are_found_and_named():
    board = np.ones((3, 36), dtype=int)
    board[1, [0, 7]] = 4  # rows 1 and 2, columns 1 and 2: one box
    board[2, [5, 35]] = 7
    assert conflicts(board).tolist() == [False, True, True]
    assert first_conflict(board[1]) == "digit 3 stands twice in box 1"
    assert first_conflict(board[2]) == "digit 6 stands twice in column 6"
    assert faults("sudoku6", board, None) == {
        1: "contradictory givens: digit 3 stands twice in box 1",
        2: "contradictory givens: digit 6 stands twice in column 6",
    }


# --- symmetry


@pytest.mark.parametrize("side", SIDES)
def test_symmetry_keeps_validity_uniqueness_and_fingerprint(side):
    made = list(generate(side, 12, "medium", seed=5))
    puzzles, labels = np.array([m.puzzle for m in made]), np.array([m.solution for m in made])
    disguised, solutions = augment(puzzles, labels, rng(1))
    assert not (disguised == puzzles).all(axis=1).any()
    assert sudoku_oracle(disguised, solutions).all()
    assert all(is_unique(row) for row in disguised)
    np.testing.assert_array_equal(fingerprint(disguised), fingerprint(puzzles))
    np.testing.assert_array_equal((disguised > 1).sum(1), (puzzles > 1).sum(1))


@given(st.sampled_from(SIDES), st.integers(0, 2**32), st.floats(0, 1))
def test_fingerprint_of_any_givens_survives_any_symmetry(side, seed, density):
    draw = rng(seed)
    tokens = np.where(
        draw.random((5, side * side)) < density, draw.integers(2, side + 2, (5, side * side)), 1
    )
    symmetry = random_symmetry(geometry(side), 5, draw)
    np.testing.assert_array_equal(fingerprint(tokens), fingerprint(symmetry.apply(tokens)))


def test_fingerprints_are_equal_exactly_for_disguises_on_4x4():
    line_orders = [
        band * 2 + line
        for bands in ((0, 1), (1, 0))
        for first in ((0, 1), (1, 0))
        for second in ((0, 1), (1, 0))
        for band, line in [(np.repeat(bands, 2), np.array(first + second))]
    ]
    digit_orders = np.array(list(itertools.permutations(range(2, 6))))
    tables = np.concatenate([np.tile([0, 1], (24, 1)), digit_orders], axis=1)

    def canonical(tokens: np.ndarray) -> bytes:
        grid = tokens.reshape(4, 4)
        views = [
            g[np.ix_(r, c)].reshape(16) for g in (grid, grid.T) for r in line_orders for c in line_orders
        ]
        return min(table[view].tobytes() for view in views for table in tables)

    draw = rng(3)
    puzzles = [np.where(draw.random(16) < 0.3, random_solution(4, draw), 1) for _ in range(150)]
    prints = fingerprint(np.array(puzzles)).tolist()
    exact = [canonical(puzzle) for puzzle in puzzles]
    assert len(set(exact)) < len(puzzles)  # some are disguises of each other
    assert len(set(prints)) == len(set(exact)) == len(set(zip(prints, exact, strict=True)))


def test_seventeen_clue_puzzles_known_to_be_inequivalent_have_different_fingerprints(shared):
    puzzles = datasets.read_puzzles(shared / "data/sudoku/17-clue-part.csv.gz", limit=4000)
    assert len(np.unique(fingerprint(puzzles.inputs))) == 4000


def test_one_symmetry_disguises_puzzle_and_answer_alike():
    solution = np.array([random_solution(9, rng(k)) for k in range(8)])
    symmetry = random_symmetry(geometry(9), 8, rng(2))
    puzzle = np.where(rng(3).random(solution.shape) < 0.4, solution, 1)
    assert sudoku_oracle(symmetry.apply(puzzle), symmetry.apply(solution)).all()


def test_augment_keeps_pad_blank_and_its_arguments():
    puzzles = datasets.bundled("sudoku9").take(slice(0, 16))
    inputs, labels = puzzles.inputs.copy(), puzzles.labels.copy()
    labels[:, 5] = 0
    before = inputs.copy(), labels.copy()
    new_inputs, new_labels = augment(inputs, labels, rng())
    assert ((new_labels == 0).sum(axis=1) == 1).all()
    assert ((new_inputs == 1).sum(axis=1) == (inputs == 1).sum(axis=1)).all()
    np.testing.assert_array_equal(inputs, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_oblong_boxes_are_not_transposed():
    board = geometry(6)
    cells = random_symmetry(board, 200, rng()).cells.reshape(200, 6, 6)
    assert (cells // 6 == cells[:, :, :1] // 6).all()  # what shares a row goes on sharing one
    square = random_symmetry(geometry(9), 200, rng()).cells.reshape(200, 9, 9)
    rows_kept = (square // 9 == square[:, :, :1] // 9).all(axis=(1, 2))
    assert 60 < rows_kept.sum() < 140


def test_augment_reaches_every_digit_order_and_line():
    puzzle = np.tile(random_solution(4, rng()), (2000, 1))
    new, _ = augment(puzzle, puzzle, rng(7))
    assert sudoku_oracle(np.ones_like(new), new).all()
    assert {tuple(row) for row in new[:, :2].tolist()} == set(itertools.permutations(range(2, 6), 2))


# --- generator


@pytest.mark.parametrize(
    ("side", "difficulty", "clues", "guesses"),
    [
        (4, "easy", (6, 9), (0, 0)),
        (4, "medium", (4, 5), (0, 0)),
        (6, "easy", (14, 18), (0, 0)),
        (6, "medium", (8, 13), (0, 0)),
        (6, "hard", (8, 14), (1, 3)),
        (6, "extreme", (8, 14), (4, 1000)),
        (9, "easy", (30, 36), (0, 0)),
        (9, "medium", (20, 29), (0, 0)),
        (9, "hard", (17, 32), (1, 9)),
        (9, "extreme", (17, 32), (10, 10**6)),
    ],
)
def test_generated_puzzles_are_unique_and_as_difficult_as_asked(side, difficulty, clues, guesses):
    for made in generate(side, 5, difficulty, seed=3):
        assert made.difficulty == difficulty
        assert clues[0] <= made.clues <= clues[1]
        assert guesses[0] <= made.guesses <= guesses[1] and count_guesses(made.puzzle) == made.guesses
        assert (solve(made.puzzle) == made.solution).all() and is_unique(made.puzzle)


@pytest.mark.parametrize("side", (6, 9))
def test_hard_puzzles_lose_uniqueness_with_any_clue(side):
    for made in generate(side, 3, "hard", seed=8):
        for cell in np.flatnonzero(made.puzzle > 1):
            weaker = made.puzzle.copy()
            weaker[cell] = 1
            assert not is_unique(weaker)


def test_digging_stops_at_the_number_of_clues_asked_for():
    puzzle = dig(random_solution(9, rng()), 40, singles=False, rng=rng())
    assert (puzzle > 1).sum() == 40 and is_unique(puzzle)


def test_generation_depends_on_the_seed_alone_and_not_on_the_count():
    few = [made.puzzle.tolist() for made in generate(6, 4, "medium", seed=9)]
    many = [made.puzzle.tolist() for made in generate(6, 9, "medium", seed=9)]
    other = [made.puzzle.tolist() for made in generate(6, 4, "medium", seed=10)]
    assert many[:4] == few and other != few


def test_excluded_fingerprints_do_not_come_up():
    first = datasets.build("sudoku4", 20, "medium", seed=1)
    marks = fingerprint(first.inputs)
    second = datasets.build("sudoku4", 20, "medium", seed=1, exclude=marks)
    assert not set(marks.tolist()) & set(fingerprint(second.inputs).tolist())


def test_difficulties_out_of_reach_are_refused():
    with pytest.raises(ValueError, match="no new hard 4x4 puzzle"):
        list(generate(4, 1, "hard"))


def test_mixed_is_all_that_a_board_has():
    for task, kinds in (
        ("sudoku4", ("easy", "medium")),
        ("sudoku12", ("easy", "medium")),
        ("sudoku6", DIFFICULTIES),
    ):
        made = datasets.build(task, len(kinds), seed=1)
        assert made.columns["difficulty"] == kinds, task


def test_a_mix_takes_its_shares():
    made = datasets.build("sudoku6", 20, "easy:3,medium:2", seed=4)
    assert made.columns["difficulty"].count("easy") == 12
    assert parse_mix("mixed") == dict.fromkeys(DIFFICULTIES, 0.25)


@pytest.mark.parametrize("text", ["", "simple", "easy:0", "easy:x", "easy:-1", "easy,,hard", "easy:²"])
def test_a_mix_that_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError):
        parse_mix(text)


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16", "int32", "uint64"])
def test_tokens_of_every_integer_dtype_are_judged_and_solved_alike(kind):
    puzzles = datasets.bundled("sudoku9").take(range(3))
    inputs, labels = puzzles.inputs.astype(kind), puzzles.labels.astype(kind)
    twice = labels.copy()
    twice[:, :2] = 10  # the digit 9, of which 8 bits have no mask
    assert puzzles.oracle(inputs, labels).all() and puzzles.oracle(torch.from_numpy(inputs), labels).all()
    assert conflicts(twice).all() and not conflicts(labels).any()
    assert not faults("sudoku9", inputs, labels) and len(faults("sudoku9", inputs, twice)) == 3
    assert uniqueness("sudoku9", inputs)[0] == {}


def test_tokens_that_are_no_integers_are_refused():
    puzzles = datasets.bundled("sudoku6").take(0)
    with pytest.raises(ValueError, match="tokens must be integers, got float64"):
        puzzles.oracle(puzzles.inputs, puzzles.labels / 1.0)
