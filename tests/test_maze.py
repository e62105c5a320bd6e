"""Mazes: shortest paths, oracle, symmetries, generator."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqrlab import datasets
from eqrlab.datasets.checks import uniqueness
from eqrlab.datasets.maze import (
    FLOOR,
    GOAL,
    PATH,
    START,
    WALL,
    augment,
    fingerprint,
    maze_oracle,
    shortest_path,
)
from eqrlab.datasets.maze_generate import add_loops, carve, default_steps, generate_mazes


def walk(maze: np.ndarray) -> tuple[int, list[tuple[int, ...]]]:
    """List all shortest paths by plain breadth-first search over cells: (steps, paths)."""
    side = round(len(maze) ** 0.5)
    start, goal = (int(np.flatnonzero(maze == token)[0]) for token in (START, GOAL))
    steps, queue = {start: 0}, deque([start])
    parents: dict[int, list[int]] = {start: []}
    while queue:
        cell = queue.popleft()
        row, column = divmod(cell, side)
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            near = (row + down) * side + column + right
            if not (0 <= row + down < side and 0 <= column + right < side) or maze[near] == WALL:
                continue
            if near not in steps:
                steps[near], parents[near] = steps[cell] + 1, []
                queue.append(near)
            if steps[near] == steps[cell] + 1:
                parents[near].append(cell)
    if goal not in steps:
        return -1, []
    paths: list[tuple[int, ...]] = [(goal,)]
    while len(paths[0]) <= steps[goal]:
        paths = [(before, *path) for path in paths for before in parents[path[0]]]
    return steps[goal], paths


def random_field(side: int, seed: int, walls: float) -> np.ndarray:
    draw = np.random.default_rng(seed)
    maze = np.where(draw.random(side * side) < walls, WALL, FLOOR)
    maze[draw.choice(side * side, 2, replace=False)] = START, GOAL
    return maze


@given(st.integers(3, 6), st.integers(0, 10**6), st.floats(0, 0.7))
def test_shortest_paths_agree_with_plain_search_on_any_field(side, seed, walls):
    maze = random_field(side, seed, walls)
    expected, paths = walk(maze)
    steps, unique = shortest_path(maze)
    assert steps[0] == expected
    assert unique[0] == (len(paths) == 1)
    assert (not uniqueness(f"maze{side}", maze[None])[0]) == (len(paths) == 1) if side > 4 else True


@given(st.integers(3, 5), st.integers(0, 10**6), st.floats(0, 0.6))
def test_every_shortest_path_is_right_and_nothing_else_is(side, seed, walls):
    maze = random_field(side, seed, walls)
    _, paths = walk(maze)
    answers = {tuple(np.where(np.isin(np.arange(len(maze)), path[1:-1]), PATH, maze)) for path in paths}
    draw = np.random.default_rng(seed)
    tried = [np.array(answer) for answer in answers]
    for answer in [*tried[:5], *([maze] * 5)]:
        changed = answer.copy()
        cells = draw.choice(len(maze), draw.integers(1, 4), replace=False)
        changed[cells] = draw.choice([FLOOR, PATH, PATH, WALL, START, 0], len(cells))
        tried.append(changed)
    judged = maze_oracle(np.tile(maze, (len(tried), 1)), np.array(tried))
    assert judged.tolist() == [tuple(answer) in answers for answer in tried]


def test_all_markings_of_a_small_field_are_judged_right():
    maze = np.array([START, FLOOR, FLOOR, FLOOR, WALL, FLOOR, FLOOR, FLOOR, GOAL])
    free = np.flatnonzero(maze == FLOOR)
    answers = np.tile(maze, (2 ** len(free), 1))
    for k, cell in enumerate(free):
        answers[(np.arange(len(answers)) >> k & 1).astype(bool), cell] = PATH
    right = maze_oracle(np.tile(maze, (len(answers), 1)), answers)
    assert right.sum() == 2
    assert {tuple(row) for row in np.argwhere(answers[right] == PATH).tolist()} == {
        (0, 1), (0, 2), (0, 5), (1, 3), (1, 6), (1, 7),
    }  # fmt: skip


def test_a_path_with_a_separate_ring_is_wrong():
    maze = np.full((6, 6), FLOOR)
    maze[0, 0], maze[0, 2] = START, GOAL
    answer = maze.copy()
    answer[0, 1] = PATH
    assert maze_oracle(maze.reshape(1, -1), answer.reshape(1, -1))[0]
    answer[3:6, 3:6] = PATH
    answer[4, 4] = FLOOR
    assert not maze_oracle(maze.reshape(1, -1), answer.reshape(1, -1))[0]


def test_neighbouring_start_and_goal_need_no_mark():
    maze = np.full(25, FLOOR)
    maze[0], maze[1] = START, GOAL
    assert maze_oracle(maze[None], maze[None])[0]
    assert shortest_path(maze)[0][0] == 1


@pytest.mark.parametrize("tokens", [(), (START,), (GOAL,), (START, GOAL, GOAL)])
def test_a_field_without_one_start_and_one_goal_has_no_right_answer(tokens):
    maze = np.full(25, FLOOR)
    maze[: len(tokens)] = tokens
    assert shortest_path(maze)[0][0] == -1
    assert not maze_oracle(maze[None], maze[None])[0]


def test_paths_do_not_wrap_around_the_border():
    maze = np.full((5, 5), WALL)
    maze[0, 4], maze[1, 0] = START, GOAL
    assert shortest_path(maze.reshape(1, -1))[0][0] == -1


def test_oracle_takes_any_tokens_an_untrained_network_writes():
    maze = np.stack([made.maze for made in generate_mazes(9, 40, seed=1)])
    answers = np.random.default_rng(0).integers(-3, 300, maze.shape)
    assert not maze_oracle(maze, answers).any()
    assert datasets.oracle("maze9").name == "maze shortest path"


def test_shapes_that_are_no_square_are_refused():
    with pytest.raises(ValueError, match="side \\* side"):
        maze_oracle(np.ones((1, 10), int), np.ones((1, 10), int))
    with pytest.raises(ValueError, match="equal shapes"):
        maze_oracle(np.ones((1, 25), int), np.ones((2, 25), int))


# --- symmetry


def test_turning_keeps_answers_right_and_fingerprints():
    made = list(generate_mazes(9, 64, seed=2))
    mazes, labels = np.stack([m.maze for m in made]), np.stack([m.solution for m in made])
    turned, solutions = augment(mazes, labels, np.random.default_rng(0))
    assert maze_oracle(turned, solutions).all()
    np.testing.assert_array_equal(fingerprint(turned), fingerprint(mazes))
    assert len(np.unique(fingerprint(mazes))) == 64
    assert 40 < (turned != mazes).any(axis=1).sum() < 64


def test_all_eight_turns_come_up():
    maze = next(generate_mazes(9, 1, seed=3))
    many = np.tile(maze.maze, (400, 1))
    turned, _ = augment(many, many, np.random.default_rng(1))
    assert len(np.unique(turned, axis=0)) == 8


# --- generator


@pytest.mark.parametrize("side", [7, 8, 9, 12, 29, 30])
def test_unique_mazes_are_perfect_and_in_the_range_of_steps(side):
    low, high = default_steps(side)
    for made in generate_mazes(side, 6, seed=4):
        grid = made.maze.reshape(side, side)
        size = side - (side + 1) % 2
        rooms = (size - 1) // 2
        assert (grid != WALL).sum() == 2 * rooms**2 - 1  # a spanning tree of the rooms
        assert (grid[[0, size - 1]] == WALL).all() and (grid[:, [0, size - 1]] == WALL).all()
        assert (grid[size:] == WALL).all() and (grid[:, size:] == WALL).all()
        assert low <= made.steps <= high
        steps, unique = shortest_path(made.maze)
        assert steps[0] == made.steps and unique[0]
        assert maze_oracle(made.maze[None], made.solution[None])[0]
        assert (made.solution == PATH).sum() == made.steps - 1


def test_every_open_cell_of_a_perfect_maze_is_reached():
    field = carve(30, np.random.default_rng(0))
    maze = np.where(field, FLOOR, WALL).reshape(-1)
    cells = np.flatnonzero(field.reshape(-1))
    for goal in cells[1:]:
        maze[cells[0]], maze[goal] = START, GOAL
        assert shortest_path(maze)[1][0]
        maze[goal] = FLOOR


def test_the_paper_setting_is_the_default_of_a_30_field():
    assert default_steps(30) == (100, 140)
    assert default_steps(9) == (12, 22)


@pytest.mark.parametrize("side", [7, 9, 14, 30])
def test_mazes_with_loops_have_several_shortest_paths_all_right(side):
    for made in generate_mazes(side, 4, "several", seed=5):
        steps, unique = shortest_path(made.maze)
        assert steps[0] == made.steps and not unique[0]
        assert uniqueness(f"maze{side}", made.maze[None])[0] == {0: "there are several shortest paths"}
        _, paths = walk(made.maze)
        assert len(paths) > 1
        for path in paths[:5]:
            answer = made.maze.copy()
            answer[list(path[1:-1])] = PATH
            assert maze_oracle(made.maze[None], answer[None])[0]


def test_loops_open_only_walls_between_rooms():
    field = carve(15, np.random.default_rng(0))
    looped = add_loops(field, 1.0, np.random.default_rng(0))
    assert looped[1:14:2, 1:14].all() and looped[1:14, 1:14:2].all()
    assert not looped[0::2, 0::2].any() and not looped[[0, 14]].any() and not looped[:, [0, 14]].any()
    np.testing.assert_array_equal(add_loops(field, 0.0, np.random.default_rng(0)), field)


def test_mazes_depend_on_the_seed_alone_and_not_on_the_count():
    few = [made.maze.tolist() for made in generate_mazes(9, 3, seed=6)]
    assert [made.maze.tolist() for made in generate_mazes(9, 8, seed=6)][:3] == few
    assert [made.maze.tolist() for made in generate_mazes(9, 3, seed=7)] != few


def test_excluded_mazes_do_not_come_up():
    first = datasets.build("maze7", 40, seed=1)
    marks = fingerprint(first.inputs)
    second = datasets.build("maze7", 40, seed=1, exclude=marks)
    assert not set(marks.tolist()) & set(fingerprint(second.inputs).tolist())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"side": 6}, "side 7 to 30, got 6"),
        ({"kind": "easy"}, "maze kind 'easy' unknown; choose from unique, several"),
        ({"count": -1}, "count must be >= 0"),
        ({"steps": (9, 3)}, "steps must be 1 <= fewest <= most"),
        ({"loops": 0.0}, r"loops must be in \(0, 1\]"),
        ({"steps": (500, 600)}, "no new unique maze of side 9 with 500 to 600 steps"),
    ],
)
def test_mazes_that_cannot_be_made_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        list(generate_mazes(**{"side": 9, "count": 1, **arguments}))


def test_the_conventions_are_those_of_the_reference_mazes(shared):
    theirs = datasets.read_puzzles(shared / "conformance/data/maze9", unique=True)
    ours = datasets.build("maze9", 50, seed=1)
    for puzzles in (theirs, ours):
        grid = puzzles.inputs.reshape(-1, 9, 9)
        assert (grid[:, 0::2, 0::2] == WALL).all() and (grid[:, 1::2, 1::2] != WALL).all()
        steps, _ = shortest_path(puzzles.inputs)
        assert steps.min() >= 12 and steps.max() <= 22
    assert (theirs.clues == 31).all() and (ours.clues == 31).all()
