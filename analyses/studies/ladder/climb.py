"""The construction path on disk: train every rung, sample its landscape, go on where it was stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.diagnose import diagnose
from eqrlab.analyses.studies.ladder.rungs import REFERENCE_DEPTH, Ladder, Sampling
from eqrlab.analyses.studies.shares import proportion
from eqrlab.analyses.text.format import stated_share
from eqrlab.attractors.results import archive, schema
from eqrlab.attractors.results.groups import results_of
from eqrlab.core import Reasoner, load
from eqrlab.core.files import sha256
from eqrlab.core.models.reasoner import restart_law
from eqrlab.core.progress import shown, tqdm
from eqrlab.core.training.objective import TrainConfig
from eqrlab.core.training.trainer import Trainer, train
from eqrlab.datasets import PuzzleSet

Groups = dict[str, xr.Dataset]


class Interrupted(Exception):
    """The ladder was asked to stop; all that is finished, and the training under way, are on disk."""


def take_up(trainer: Trainer, folder: Path) -> bool:
    """Load the state of the run in a folder, if there is one; return whether its training is finished.

    Raises
    ------
    ValueError
        When the folder holds a run, or a model, of other settings or data, naming what differs, or an unfinished
        model without the state that continuing needs.
    """
    state, path = folder / "state.safetensors", folder / "model.safetensors"
    if state.exists():
        trainer.load_state(state)
    if not path.exists():
        return False
    model, own, usual = load(path), trainer.result(), dataclasses.asdict(TrainConfig())
    facts = [
        {"family": m.family, "task": m.task, **dataclasses.asdict(m.config)}
        | {f"train.{k}": v for k, v in {**usual, **m.provenance.get("train", {})}.items()}
        | {"data_sha256": m.provenance.get("data_sha256")}
        for m in (model, own)
    ]
    differ = [f"{k} {facts[0].get(k)} there, {v} here" for k, v in facts[1].items() if facts[0].get(k) != v]
    if differ:
        raise ValueError(f"{path}: belongs to a run with other settings: {'; '.join(differ)}")
    steps = model.provenance.get("steps")
    if not state.exists() and steps != trainer.config.steps:
        raise ValueError(f"{path}: stopped at step {steps}, and {state.name} to continue it is missing")
    return steps == trainer.config.steps and (trainer.step_count == steps or not state.exists())


def finish_training(
    ladder: Ladder, rung: str, seed: int, stop: Callable[[], bool], progress: bool = False
) -> bool:
    """Train a run to its end, from where it stands; return whether there was anything left to do.

    Raises
    ------
    ValueError
        See `take_up`.
    Interrupted
        When `stop` says so; the state is saved.
    """
    trainer, folder = ladder.trainer(rung, seed), ladder.folder(rung, seed)
    if take_up(trainer, folder):
        return False
    if stop():
        raise Interrupted
    ladder.remember(rung, seed)
    total, held = trainer.config.steps, ladder.test_set
    assert held.labels is not None
    records = train(
        trainer, folder, test=(held.inputs, held.labels), judge=held.oracle, evaluate_every=total, stop=stop
    )
    bar = tqdm(
        records, folder.name, total, initial=trainer.step_count, unit="step", **shown(progress)
    )  # fmt: skip
    with bar:
        for _ in bar:
            pass
    if trainer.step_count < total:
        raise Interrupted
    return True


def deepest(model: Reasoner, sampling: Sampling) -> int:
    """Return the depth of the runs from a model's own start."""
    return max(sampling.depth, REFERENCE_DEPTH, model.config.halt_max_steps)


def measure_run(
    model: Reasoner,
    test: PuzzleSet,
    sampling: Sampling,
    *,
    device: str = "cpu",
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Groups:
    """Sample a trained model.

    Parameters
    ----------
    model, test, sampling
        What to sample, on which puzzles, how much.
    tick
        Called with (row-steps done, all) of each of the two samplings; what it raises ends them.

    Returns
    -------
    dict
        `ensemble`, `basins`, `alignment`, `modes`: the landscape of the first puzzles, from random states for every
        family.  `own_start`: `correct(puzzle, step)` of one restart a puzzle of the whole test set, from the
        family's own restart law.  The model's own noise in both.
    """
    law = "training_law" if model.random_starts else "outside_training_law"
    law = "start_has_no_effect" if model.family == "feedforward" else law
    own = at.sample(
        model, test.inputs, labels=test.labels, oracle=test.oracle, restarts=1, depth=deepest(model, sampling),
        seed=sampling.seed, device=device, progress=tick,
    )  # fmt: skip
    first = test.take(slice(sampling.limit))
    groups = diagnose(
        model, first.inputs, labels=first.labels, oracle=first.oracle, restarts=sampling.restarts,
        depth=sampling.depth, seed=sampling.seed, device=device, progress=tick, fixed=True,
        initial=restart_law(model),
    )  # fmt: skip
    for group in groups.values():
        group.attrs["starts"] = law
    correct = own.correct.values[:, 0]
    variables: dict[str, schema.Variable] = {
        "correct": (("puzzle", "step"), correct, "answer after this step is right, one restart")
    }
    attributes = {**schema.carried(own), "training_depth": model.config.halt_max_steps}
    groups["own_start"] = schema.dataset(variables, attributes, {"step": own.step.values})
    return groups


def request(ladder: Ladder, rung: str, seed: int) -> str:
    """Return what the sampling of a trained run is asked to be, as its archive notes it."""
    test, model = ladder.test_set, ladder.folder(rung, seed) / "model.safetensors"
    puzzles = hashlib.sha256(test.inputs.tobytes() + np.asarray(test.labels).tobytes()).hexdigest()
    return json.dumps({"model": sha256(model), "puzzles": puzzles, **dataclasses.asdict(ladder.sampling)})


def found(ladder: Ladder, rung: str, seed: int) -> Groups | None:
    """Return the sampling in the folder of a run, None where there is none, or one of something else."""
    folder = ladder.folder(rung, seed)
    if not all((folder / name).exists() for name in ("landscape.nc", "model.safetensors")):
        return None
    tree = archive.read(folder / "landscape.nc")
    return results_of(tree) if tree.attrs.get("ladder_request") == request(ladder, rung, seed) else None


def measured(
    ladder: Ladder, rung: str, seed: int, stop: Callable[[], bool], progress: bool = False
) -> tuple[Groups, bool]:
    """Return the sampling of a finished run, and whether it is new: `landscape.nc` is taken where it is as asked for.

    Raises
    ------
    Interrupted
        When `stop` says so; nothing of the sampling under way is kept.
    """
    folder, test = ladder.folder(rung, seed), ladder.test_set
    known = found(ladder, rung, seed)
    if known is not None:
        return known, False

    def tick(done: int, total: int) -> None:
        if stop():
            raise Interrupted
        bar.total = total
        bar.update(done - bar.n)

    with tqdm(desc=folder.name, unit="step", unit_scale=True, **shown(progress)) as bar:
        model = load(folder / "model.safetensors")
        model.multiply("fastest")
        groups = measure_run(model, test, ladder.sampling, device=ladder.device, tick=tick)
    for group in groups.values():
        group.attrs |= {
            "ladder_request": request(ladder, rung, seed),
            "name": folder.name,
            "rung": rung,
            "training_seed": seed,
        }
    archive.write(folder / "landscape.nc", groups)
    return groups, True


def climb(
    ladder: Ladder,
    *,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda text: None,
    progress: bool = False,
) -> dict[tuple[str, int], Groups]:
    """Train and sample all runs of a ladder that are not yet on disk; return the sampling of all, (rung, seed) to it.

    Parameters
    ----------
    stop
        Asked after every optimiser step and between batches of the sampling.
    tell
        Gets a line of text a run.

    Raises
    ------
    ValueError
        When a folder holds something else, before anything is trained.
    Interrupted
        When `stop` says so.  Called again, the ladder goes on from there to the same result.

    Notes
    -----
    On one core a run of 1,200 steps on "sudoku6" takes some 4 minutes and its sampling half a minute.
    """
    _refuse_foreign(ladder)
    results = {}
    for rung, seed in ladder.runs():
        new = finish_training(ladder, rung, seed, stop, progress)
        groups, sampled = measured(ladder, rung, seed, stop, progress)
        results[rung, seed] = groups
        last = groups["own_start"].correct.values[:, groups["own_start"].attrs["training_depth"] - 1]
        exact = stated_share(proportion(last.mean(), len(last)))
        done = f"{'trained' if new else 'found'} and {'sampled' if sampled else 'found sampled'}"
        tell(f"{rung}, seed {seed}: {done}, {exact} exact at the training depth")
    return results


def _refuse_foreign(ladder: Ladder) -> None:
    """Look into every folder before the first training."""
    for rung, seed in ladder.runs():
        folder = ladder.folder(rung, seed)
        if any((folder / f"{name}.safetensors").exists() for name in ("state", "model")):
            take_up(ladder.trainer(rung, seed), folder)
