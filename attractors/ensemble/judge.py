"""Correctness: answers are judged by labels or an oracle, and followed over the steps of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from eqrlab.core.labels import counts, right

Oracle = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Judge:
    """Decides which answers are right: by an oracle if there is one, else by labels, else correctness is unknown.

    Attributes
    ----------
    labels
        Solutions (P, L), one row per puzzle; cells with label 0 do not count; -1 stands for token 0 in a cell
        that does.
    oracle
        `(inputs, answers) -> (n,) bool`, both (n, L).
    """

    labels: np.ndarray | None = None
    oracle: Oracle | None = None

    @property
    def known(self) -> bool:
        """Whether correctness is known at all."""
        return self.labels is not None or self.oracle is not None

    @property
    def name(self) -> str:
        """How results record the way answers were judged: the oracle's name, "labels" or "none"."""
        if self.oracle is None:
            return "none" if self.labels is None else "labels"
        return str(getattr(self.oracle, "name", getattr(self.oracle, "__name__", "callable")))

    @classmethod
    def of_ensemble(cls, ensemble: xr.Dataset) -> Judge:
        """Return the judge of an ensemble's puzzles as far as it is stored: its labels, if they decided."""
        decided = "labels" in ensemble and ensemble.attrs.get("oracle") == "labels"
        return cls(ensemble.labels.values if decided else None)

    @functools.cached_property
    def counted(self) -> np.ndarray | None:
        """The cells (P, L) by which answers are compared, None: all of them.

        If labels decide, cells without a label are ignored: answers that differ only there mean the same.  All cells
        count in a puzzle without any label, and for an oracle.
        """
        if self.oracle is not None or self.labels is None:
            return None
        counted = counts(np.asarray(self.labels))
        counted = counted | ~counted.any(axis=1, keepdims=True)
        return None if counted.all() else counted

    def codes(self, answer: np.ndarray) -> np.ndarray:
        """Return a number (n,) for each answer (n, L), in the order of the labels: equal if answers mean the same.

        Raises
        ------
        ValueError
            If answers are not rows of integer tokens, or differ in length from the labels.
        """
        counted = self.counted
        if counted is not None and answer.shape[1:] != counted.shape[1:]:
            raise ValueError(f"labels have {counted.shape[1]} tokens, answers {answer.shape[-1]}")
        return answer_codes(answer, counted)

    def of(self, puzzles: Any) -> Judge:
        """Return the judge of some puzzles, given by their positions (n,), with their labels."""
        return self if self.labels is None else replace(self, labels=self.labels[puzzles])

    def __call__(self, inputs: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Judge one answer of each puzzle.

        Parameters
        ----------
        inputs, answer
            (P, L), rows as those of the labels.

        Returns
        -------
        correct, accuracy
            (P,) bool, and the share of right cells, NaN without labels.

        Raises
        ------
        ValueError
            For answers of another length than the labels.
        """
        correct, accuracy = np.zeros(len(answer), bool), np.full(len(answer), np.nan, np.float32)
        if self.labels is not None:
            if self.labels.shape[1] != answer.shape[1]:
                raise ValueError(f"labels have {self.labels.shape[1]} tokens, answers {answer.shape[1]}")
            counted = counts(self.labels)
            same = right(answer, self.labels) | ~counted
            correct = same.all(1) & counted.any(1)
            accuracy = ((same & counted).sum(1) / np.maximum(counted.sum(1), 1)).astype(np.float32)
        if self.oracle is not None:
            correct = np.asarray(self.oracle(inputs, answer), bool)
        return correct, accuracy


@functools.cache
def _hash_factors(length: int) -> np.ndarray:
    """Return fixed odd 64-bit factors (length,) whose products with the tokens are summed to a hash of an answer."""
    return np.random.default_rng(7).integers(1, 2**63, size=length, dtype=np.uint64) | np.uint64(1)


def require_judged(what: str, labels: object, oracle: object) -> None:
    """Refuse, with a ValueError, to do what needs a judge without labels and oracle."""
    if labels is None and oracle is None:
        raise ValueError(f"{what} needs to know what is correct: give labels or an oracle")


def answer_codes(answer: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Return a hash (n,) of each answer (n, L): equal for equal answers, and different otherwise except by accident.

    With `counted`, bool (n, L), the other cells are ignored.

    Raises
    ------
    ValueError
        If answers are not rows of integer tokens.
    """
    if answer.ndim != 2 or answer.dtype.kind not in "iub":
        raise ValueError(f"decode must return integer tokens (n, L), got {answer.shape} of {answer.dtype}")
    values = answer.astype(np.uint64) + np.uint64(1)
    if counted is not None:
        values *= counted
    return values @ _hash_factors(answer.shape[1])


class Answers:
    """Follows the answers of rows: their code, correctness and cell accuracy at every step, the last in full.

    Only rows whose answer has changed are judged again; `unchanged` (n,) counts the steps since then.
    """

    def __init__(self, judge: Judge, inputs: np.ndarray):
        self.judge, self.inputs = judge, inputs
        self.codes: list[np.ndarray] = []
        self.correct: list[np.ndarray] = []
        self.accuracy: list[np.ndarray] = []
        self.answer = np.zeros((len(inputs), 0), dtype=np.int64)
        self.unchanged = np.zeros(len(inputs), int)

    def see(self, answers: Tensor) -> None:
        """Record the answers (n, L) of the next step."""
        answer = answers.cpu().numpy()
        if len(answer) != len(self.inputs):
            raise ValueError(
                f"decode must return a row for each of {len(self.inputs)} states, got {len(answer)}"
            )
        code = self.judge.codes(answer)
        changed = np.ones(len(code), bool) if not self.codes else code != self.codes[-1]
        correct = np.zeros(len(code), bool) if not self.codes else self.correct[-1].copy()
        accuracy = np.full(len(code), np.nan, np.float32) if not self.codes else self.accuracy[-1].copy()
        if changed.any():
            judged = self.judge.of(changed)(self.inputs[changed], answer[changed])
            correct[changed], accuracy[changed] = judged
        self.unchanged = np.where(changed, 1, self.unchanged + 1)
        self.codes.append(code)
        self.correct.append(correct)
        self.accuracy.append(accuracy)
        self.answer = answer

    def recorded(self) -> dict[str, np.ndarray]:
        """Return the records, row axis first."""
        return {
            "code": np.stack(self.codes, 1),
            "correct": np.stack(self.correct, 1),
            "token_accuracy": np.stack(self.accuracy, 1),
            "answer": self.answer,
        }
