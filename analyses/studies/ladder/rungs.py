"""The rungs of the construction path, from a feedforward model to EqR, and how each is trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eqrlab.analyses.studies.training_recipes import OPTIONS, configurations
from eqrlab.core.checkpoints.build import configure
from eqrlab.core.files import replaced_whole
from eqrlab.core.training.trainer import Trainer
from eqrlab.datasets import bundled, fingerprint, read_puzzles
from eqrlab.datasets import task as task_named

REFERENCE_DEPTH = 16  # at which the paper states accuracies


@dataclasses.dataclass(frozen=True)
class Rung:
    """One model of the construction path.

    Attributes
    ----------
    text
        What it adds to the rung before, in a few words.
    family
        Of the model.
    before
        The rung that it differs from by one ingredient.
    """

    text: str
    family: str
    before: str | None


RUNGS = {
    "feedforward": Rung("distinct blocks, one pass", "feedforward", None),
    "tied": Rung("+ weights tied, one segment", "tied", "feedforward"),
    "sot": Rung("+ segmented online training", "tied", "tied"),
    "hierarchy": Rung("+ two levels z_H, z_L", "trm", "sot"),
    "act": Rung("+ learned halting", "trm", "hierarchy"),
    "noise": Rung("act + noise and damping, one start", "eqr", "act"),
    "ri": Rung("+ random initial states", "eqr", "act"),
    "ni": Rung("+ noise and damping", "eqr", "ri"),
    "entropy": Rung("ni + answer entropy of late segments", "eqr", "ni"),
    "stability": Rung("ni + stability of late answers", "eqr", "ni"),
    "spectral": Rung("ni + leading gain at late states", "eqr", "ni"),
    "narrow": Rung("ni, starts half as wide", "eqr", "ni"),
}
WEIGHTS = {"entropy": 0.1, "stability": 1.0, "spectral": 0.1}  # of the rungs with a regulariser
# The paper's path; beside it, "noise" crosses RI with NI, and the others shape late states.
PATH = tuple(name for name in RUNGS if name not in ("noise", "narrow", *WEIGHTS))
SET_BY_RUNGS = (
    "seed", "halting", "supervision", "anchors", "noise", "damping", "init_std", "regulariser", "regulariser_weight",
)  # fmt: skip


def rung_before(name: str, taken: Sequence[str]) -> str | None:
    """Return the nearest rung below `name` that a ladder has taken, or None."""
    before = RUNGS[name].before
    while before is not None and before not in taken:
        before = RUNGS[before].before
    return before


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What is sampled of every trained model.

    Attributes
    ----------
    limit
        Held-out puzzles of the landscape, the first ones; the accuracy takes all.
    restarts, depth
        Breadth B and depth D of the landscape.
    seed
        Of starts and noise: the same for all models.
    """

    limit: int = 24
    restarts: int = 24
    depth: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("restarts", 2), ("depth", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")


def rung_options(task: str, name: str, common: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the training options of a rung, as `analyses.studies.training_recipes.configurations` takes them.

    Parameters
    ----------
    task
        Task name; its recipe sets the inner cycles (H, L), the blocks of a level and the outer steps in training.
    name
        One of RUNGS.
    common
        Options that all rungs share, such as {"hidden": 32, "steps": 500}; those in SET_BY_RUNGS belong to the rungs.

    Returns
    -------
    dict
        Every rung applies as many blocks in an outer step as the two-level model: `layers` H (L + 1).

    Raises
    ------
    ValueError
        For an unknown rung, task or option, or one that the rungs set.

    Examples
    --------
    >>> options = rung_options("sudoku6", "tied")
    >>> options["h_cycles"], options["l_cycles"], options["halt_max_steps"], options["halting"]
    (2, 3, 1, 'off')
    """
    if name not in RUNGS:
        raise ValueError(f"rung {name!r} unknown; choose from {', '.join(RUNGS)}")
    common = dict(common or {})
    for option in common:
        if option not in OPTIONS or option in SET_BY_RUNGS:
            reason = "is set by the rungs themselves" if option in SET_BY_RUNGS else "unknown"
            raise ValueError(f"option {option!r} {reason}")
    empty = {**dict.fromkeys(OPTIONS), "box_gap": False, "compile": False}
    options = {**empty, **common, "family": RUNGS[name].family}
    two_level = configure("trm", configurations(task, {**options, "family": "trm"}, "cpu")[0])
    high, low, layers = two_level.H_cycles, two_level.L_cycles, two_level.layers
    if name == "feedforward":
        shape = {"layers": layers * high * (low + 1), "h_cycles": None, "l_cycles": None}
        return {**options, **shape, "halt_max_steps": None}
    if name in ("tied", "sot"):
        options |= {"h_cycles": high, "l_cycles": low + 1}
    if name == "tied":
        options["halt_max_steps"] = 1
    if name in ("tied", "sot", "hierarchy"):
        options["halting"] = "off"
    if name == "ri":
        options |= {"noise": 0.0, "damping": 0.0}
    if name == "noise":
        options["init_std"] = 0.0
    if name == "narrow":
        options["init_std"] = 0.5
    if name in WEIGHTS:
        options |= {"regulariser": name, "regulariser_weight": WEIGHTS[name]}
    return options


class Ladder:
    """A ladder on disk: which runs it has, how they are trained and sampled, and where they are kept.

    Parameters
    ----------
    task
        Task name; one of open sizes takes those of the training puzzles.
    out
        Folder; the run of a rung and a seed is in `out / "RUNG-seedS"`, laid out as `eqrlab train` does.
    rungs, seeds
        Which models; rungs are taken in the order of RUNGS.
    options
        Training options that all rungs share, see `rung_options`.
    puzzles, test_puzzles
        Files to train and to measure on; None: the bundled sets.
    sampling
        What is sampled of each model.
    device
        "cpu" or "cuda".

    Raises
    ------
    ValueError
        For rungs, seeds, options or puzzles that cannot be used; where a held-out puzzle is, up to the symmetries of
        the task, also a training puzzle.
    """

    def __init__(
        self,
        task: str,
        out: str | Path,
        *,
        rungs: Sequence[str] = PATH,
        seeds: Sequence[int] = (0, 1, 2),
        options: dict[str, Any] | None = None,
        puzzles: str | None = None,
        test_puzzles: str | None = None,
        sampling: Sampling | None = None,
        device: str = "cpu",
    ):
        if not rungs or not seeds or len({*seeds}) < len(seeds):
            raise ValueError(f"at least one rung and distinct seeds are needed, got {rungs} and {seeds}")
        self.out, self.seeds, self.device = Path(out), tuple(seeds), device
        self.rungs = tuple(name for name in RUNGS if name in rungs)
        self.sampling = sampling or Sampling()
        self.files = {"puzzles": puzzles, "test_puzzles": test_puzzles}
        self.training_set = read_puzzles(puzzles, task, "train") if puzzles else bundled(task, "train")
        task = self.task = self.training_set.task  # with sizes, where the one asked for has none
        self.options = {name: rung_options(task, name, options) for name in rungs}
        self.test_set = read_puzzles(test_puzzles, task) if test_puzzles else bundled(task, "test")
        for given in (self.training_set, self.test_set):
            if given.labels is None:
                raise ValueError(f"{given.source}: the ladder needs puzzles with solutions")
        seen, held = (fingerprint(task, given.inputs) for given in (self.training_set, self.test_set))
        common = np.isin(held, seen).sum()
        if common:
            raise ValueError(
                f"{self.test_set.source}: {common} of {len(self.test_set)} held-out puzzles are training puzzles, "
                "or symmetric to one"
            )

    def runs(self) -> list[tuple[str, int]]:
        """Return (rung, seed) of all runs, the first seed's first."""
        return [(rung, seed) for seed in self.seeds for rung in self.rungs]

    def folder(self, rung: str, seed: int) -> Path:
        """Return where a run is kept."""
        return self.out / f"{rung}-seed{seed}"

    def trainer(self, rung: str, seed: int) -> Trainer:
        """Return the trainer of a run at its beginning."""
        options = {**self.options[rung], "seed": seed}
        model, config = configurations(self.task, options, self.device)
        data, drawn = self.training_set, task_named(self.task).device_augment
        augment = None if drawn is None else drawn(self.device)
        assert data.labels is not None
        return Trainer(
            options["family"], model, self.task, data.inputs, data.labels, config, augment, self.device
        )

    def remember(self, rung: str, seed: int) -> None:
        """Write the options of a run beside it, so that `eqrlab train --resume` continues it too."""
        path = self.folder(rung, seed) / "options.json"
        if path.exists():
            return
        kept = {"task": self.task, **self.options[rung], "seed": seed, **self.files, "no_symmetries": False}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_whole(path) as temporary:
            temporary.write_text(json.dumps(kept, indent=1) + "\n")
