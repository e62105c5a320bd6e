"""One task: what its tokens and its board are, and what can be done with its puzzles."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from eqrlab.core.labels import ELSEWHERE

Judge = Callable[[np.ndarray, np.ndarray], np.ndarray]
Augment = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
Tick = Callable[[int], object]


def as_numpy(tokens: Any) -> np.ndarray:
    """Turn a NumPy array or a torch tensor on any device into an array, without importing torch."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tokens, torch.Tensor):
        return tokens.detach().cpu().numpy()
    return np.asarray(tokens)


def integers(tokens: Any) -> np.ndarray:
    """Return tokens of any integer dtype as int64, in which bit masks of the largest boards have room.

    Raises
    ------
    ValueError
        For anything but integers.
    """
    found = np.asarray(tokens)
    if not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"tokens must be integers, got {found.dtype}")
    return found.astype(np.int64, copy=False)


def paired(inputs: np.ndarray, others: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return token rows (n, L) and those that go with them, called `name`, as arrays of int64.

    Raises
    ------
    ValueError
        If they are no integers, or do not have such a shape, both the same.
    """
    inputs, others = integers(inputs), integers(others)
    if inputs.ndim != 2 or inputs.shape != others.shape:
        raise ValueError(
            f"inputs and {name} must be two equal shapes (n, L), got {inputs.shape} and {others.shape}"
        )
    return inputs, others


def _on_device(augment: Augment, device: Any) -> Callable:
    """Return `(inputs, labels, generator)` of symmetries of arrays; the generator seeds their random numbers."""
    import torch  # slow to load, and only training comes here

    def disguised(inputs: Any, labels: Any, generator: Any) -> tuple[Any, Any]:
        seed = int(torch.randint(1 << 62, (1,), generator=generator, device=device))
        made = augment(as_numpy(inputs), as_numpy(labels), np.random.default_rng(seed))
        one, other = (torch.from_numpy(np.ascontiguousarray(tokens, np.int64)).to(device) for tokens in made)
        return one, other

    return disguised


class Made(NamedTuple):
    """Generated puzzles and solutions, tokens (P, L) int64, and what else is known of them: column to P strings."""

    inputs: np.ndarray
    labels: np.ndarray
    columns: Mapping[str, tuple[str, ...]]


def are_numbers(text: str) -> bool:
    """Say whether a text is two or more whole numbers set apart by spaces or commas.

    Examples
    --------
    >>> are_numbers("17 0 -113"), are_numbers("17"), are_numbers("# S G")
    (True, False, False)
    """
    words = text.replace(",", " ").split()
    return len(words) > 1 and all(word.isascii() and word.removeprefix("-").isdecimal() for word in words)


@dataclasses.dataclass(frozen=True)
class Oracle:
    """Decide whether answers are right, without labels.

    Attributes
    ----------
    task
        Name of the task that it judges.
    name
        What to record, e.g. "sudoku validity".
    judge
        `(inputs, answers) -> bool (n,)` on arrays (n, L).
    length
        Cells L.
    """

    task: str
    name: str
    judge: Judge = dataclasses.field(repr=False, compare=False)
    length: int

    def __call__(self, inputs: Any, answers: Any) -> np.ndarray:
        """Judge answers (n, L) to inputs (n, L), arrays or tensors of integers: bool (n,).

        Raises
        ------
        ValueError
            If the shapes differ or are not those of the task.
        """
        inputs, answers = as_numpy(inputs), as_numpy(answers)
        if inputs.ndim != 2 or inputs.shape[1] != self.length:
            raise ValueError(f"{self.task} takes inputs (n, {self.length}), got {inputs.shape}")
        return self.judge(inputs, answers)


@dataclasses.dataclass(frozen=True)
class Solutions:
    """How many solutions puzzles have.

    Attributes
    ----------
    count
        Solutions (n,) int64, counted up to a limit.
    proved
        Whether the search came to its end or to the limit, (n,) bool; where it did not, there are `count` or more.
    first
        A solution as tokens (n, L) int64, where the task's solver keeps them.
    """

    count: np.ndarray
    proved: np.ndarray
    first: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a task name stands for; only the first three must be given.

    Everything that is left out is done without: a task without oracle is judged by labels, one without symmetries is
    not disguised, and a command that cannot do without says so.

    Attributes
    ----------
    name
        Such as "sudoku6"; the same name gives the same task on any machine, as archives keep only the name.
    vocab_size
        Number of tokens V; token 0 is the pad and, in labels, the cell that does not count.  0: see `sized`.
    board
        Rows and columns; a sequence is one row.  (0, 0): see `sized`.
    kind
        Name of the family of tasks, e.g. "sudoku".
    alphabet
        The characters of tokens 1 to V - 1 in files, in order; "" where files hold numbers.
    spelt
        Further characters that files may use, with their tokens.
    numbers_from
        The token that the number 0 stands for in files of numbers.
    symbols
        How tokens 0 to V - 1 are shown; made from the alphabet where left out, and without one the numbers.
    colours
        Token -> CSS colour: boards are then drawn as pictures; tokens without one stay empty.
    boxes
        Rows and columns of the boxes that are set apart when a board is drawn.
    legend
        A sentence that explains the drawing; made where left out.
    blank
        The token of a cell that is to be filled in; others of a puzzle are givens.
    oracle
        Judges answers without labels.
    canonical
        `(answers (n, L)) -> (n, L)`: one way to write answers that mean the same.
    clues
        `(inputs (n, L)) -> bool (n, L, V)`: which tokens may be written into which cells of a puzzle as clues.
    augment
        `(inputs, labels, rng) -> (inputs, labels)`: every row disguised by its own random symmetry.
    device_augment
        `(device) -> (inputs, labels, generator) -> (inputs, labels)`: the same on tensors, for training; made from
        `augment` where left out, for which a device has to wait.
    prints
        `(tokens (n, L)) -> uint64 (n,)` that all disguises of a puzzle share.
    faults
        `(inputs, labels or None) -> {row: reason}`: rows that are no puzzle of the task, or have a wrong solution.
    count
        `(inputs, limit, tick) -> Solutions`; `limit` solutions of a puzzle are enough.
    no_solution, several
        What is said of a puzzle without and with more than one.
    build
        `(count, difficulty, seed, exclude, **options) -> Made`: generated puzzles.
    describe
        `(inputs) -> {line: text}`: what `eqrlab data info` says beside what it says of all tasks.
    variants
        Names of other tasks of these sizes, tried on puzzles that look like this one and are not.
    sized
        `(V, board) -> Task`: of a task that has no sizes of its own, the one that has these.

    Raises
    ------
    ValueError
        If the sizes are below 1, the alphabet, `spelt` or the symbols do not fit the vocabulary, or a character stands
        for two tokens.

    Examples
    --------
    >>> parity = Task(name="parity", vocab_size=3, board=(1, 5))
    >>> parity.seq_len, parity.is_grid, parity.symbol(2)
    (5, False, '2')
    """

    name: str
    vocab_size: int
    board: tuple[int, int]
    kind: str = ""
    alphabet: str = ""
    spelt: Mapping[str, int] = dataclasses.field(default_factory=dict)
    numbers_from: int = 0
    symbols: tuple[str, ...] = ()
    colours: Mapping[int, str] | None = None
    boxes: tuple[int, int] | None = None
    legend: str = ""
    blank: int | None = None
    oracle: Oracle | None = None
    canonical: Callable[[np.ndarray], np.ndarray] | None = None
    clues: Callable[[np.ndarray], np.ndarray] | None = None
    augment: Augment | None = None
    device_augment: Callable[[Any], Callable] | None = None
    prints: Callable[[np.ndarray], np.ndarray] | None = None
    faults: Callable[[np.ndarray, np.ndarray | None], dict[int, str]] | None = None
    count: Callable[[np.ndarray, int, Tick | None], Solutions] | None = None
    no_solution: str = "the puzzle has no solution"
    several: str = "the puzzle has more than one solution"
    build: Callable[..., Made] | None = None
    describe: Callable[[np.ndarray], dict[str, str]] | None = None
    variants: tuple[str, ...] = ()
    sized: Callable[[int, tuple[int, int]], Task] | None = None

    def __post_init__(self) -> None:
        try:
            rows, columns = self.board
        except (TypeError, ValueError):
            raise ValueError(
                f"task {self.name!r}: board must be (rows, columns), got {self.board!r}"
            ) from None
        if min(rows, columns, self.vocab_size) < (0 if self.sized else 1):
            raise ValueError(
                f"task {self.name!r}: board and vocab_size must be >= 1, got {rows} x {columns} and {self.vocab_size}"
            )
        if self.alphabet and len(self.alphabet) != self.vocab_size - 1:
            raise ValueError(
                f"task {self.name!r}: alphabet must have {self.vocab_size - 1} characters, "
                f"one for each token above 0, got {len(self.alphabet)}"
            )
        object.__setattr__(self, "kind", self.kind or self.name)
        usual = ("?", *self.alphabet) if self.alphabet else ()
        object.__setattr__(self, "symbols", tuple(self.symbols) or usual)
        if self.symbols and len(self.symbols) != self.vocab_size:
            raise ValueError(
                f"task {self.name!r}: symbols must have {self.vocab_size} entries, "
                f"one for each token, got {len(self.symbols)}"
            )
        if self.augment is not None and self.device_augment is None:
            object.__setattr__(self, "device_augment", functools.partial(_on_device, self.augment))
        codes = {letter: token for token, letter in enumerate(self.alphabet, start=1)} | dict(self.spelt)
        if [codes[letter] for letter in self.alphabet] != list(range(1, len(self.alphabet) + 1)):
            raise ValueError(
                f"task {self.name!r}: each character stands for one token, got {self.alphabet!r}"
            )
        if codes and not 0 <= min(codes.values()) <= max(codes.values()) < self.vocab_size:
            raise ValueError(
                f"task {self.name!r}: spelt must have tokens 0 to {self.vocab_size - 1}, got {self.spelt}"
            )
        object.__setattr__(self, "_codes", codes)

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {self.board[0]} x {self.board[1]} cells, {self.vocab_size} tokens)"

    @property
    def seq_len(self) -> int:
        """The number of cells L."""
        return self.board[0] * self.board[1]

    @property
    def is_grid(self) -> bool:
        """Whether the board has more than one row."""
        return self.board[0] > 1

    @property
    def codes(self) -> dict[str, int]:
        """The characters of a file and the tokens they stand for."""
        return self._codes  # type: ignore[attr-defined]

    def cell(self, place: int) -> str:
        """Name a cell by its row and column, or its place in a sequence, counted from 1."""
        row, column = divmod(int(place), self.board[1])
        return f"row {row + 1}, column {column + 1}" if self.is_grid else f"place {column + 1}"

    def encode(self, text: str) -> np.ndarray:
        """Read one row of characters, or of numbers set apart by spaces or commas, as tokens (L,) int64.

        Raises
        ------
        ValueError
            If the number of tokens is wrong or one of them is illegal, with its place.
        """
        if not self.alphabet or (len(text) != self.seq_len and are_numbers(text)):
            return self._numbers(text)
        if len(text) != self.seq_len:
            raise ValueError(f"{self.name} has {self.seq_len} characters, got {len(text)}")
        for place, letter in enumerate(text):
            if letter not in self.codes:
                raise ValueError(
                    f"illegal character {letter!r} in {self.cell(place)} ({self.name} knows {''.join(self.codes)!r})"
                )
        return np.array([self.codes[letter] for letter in text], dtype=np.int64)

    def _numbers(self, text: str) -> np.ndarray:
        """Read tokens written as numbers."""
        words = text.replace(",", " ").split()
        if len(words) != self.seq_len:
            raise ValueError(f"wrong length: {self.name} has {self.seq_len} tokens, got {len(words)}")
        most = self.vocab_size - 1 - self.numbers_from
        for place, word in enumerate(words):
            number = word.isascii() and word.isdecimal()
            if word[:1] == "-" and word[1:].isdecimal():
                raise ValueError(f"token {word[:20]} in {self.cell(place)} is below 0")
            if not (number and len(word) < 10 and int(word) <= most):
                raise ValueError(
                    f"illegal token {word[:20]!r} in {self.cell(place)} ({self.name} has 0 to {most})"
                )
        return np.array([int(word) + self.numbers_from for word in words], dtype=np.int64)

    def decode(self, tokens: np.ndarray) -> str:
        """Write tokens (L,) as a file holds them, row-major; where there are letters, others become `?`.

        Below the token that the number 0 stands for, labels that do not count are written -100.
        """
        values = np.asarray(tokens).tolist()
        if not self.alphabet:
            first = self.numbers_from
            return " ".join(str(t - first if t >= first else t or ELSEWHERE) for t in values)
        return "".join(self.alphabet[t - 1] if 1 <= t <= len(self.alphabet) else "?" for t in values)

    def symbol(self, token: int) -> str:
        """Return how a token is shown; one beyond the vocabulary as its number."""
        return self.symbols[token] if 0 <= token < len(self.symbols) else str(token)

    def render(self, tokens: np.ndarray) -> list[str]:
        """Write a board (L,) as lines of text for display, boxes set apart."""
        words = [self.symbol(int(token)) for token in np.asarray(tokens)]
        width = max(map(len, words), default=1)
        rows, columns = self.board
        lines = [[w.rjust(width) for w in words[k * columns : (k + 1) * columns]] for k in range(rows)]
        if self.boxes is None:
            return [("" if width == 1 and self.is_grid else " ").join(line) for line in lines]
        height, across = self.boxes
        rule = "-" * (across * (width + 1))
        between = "+".join([rule] + ["-" + rule] * (columns // across - 2) + [rule])
        drawn = []
        for number, line in enumerate(lines):
            if number and number % height == 0:
                drawn.append(between)
            parts = (line[k : k + across] for k in range(0, columns, across))
            drawn.append(" | ".join(" ".join(part) for part in parts))
        return drawn

    def fingerprint(self, tokens: np.ndarray) -> np.ndarray:
        """Return one uint64 for each puzzle (n, L) that all its disguises share; without symmetries, equal puzzles."""
        if self.prints is not None:
            return self.prints(tokens)
        rows = np.atleast_2d(np.ascontiguousarray(tokens, dtype="<i8"))
        digests = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
        return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)
