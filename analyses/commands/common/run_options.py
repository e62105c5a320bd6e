"""The options of runs given to a command, with the solutions of the puzzles and the restart law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from eqrlab import attractors as at
from eqrlab.attractors.ensemble.options import part_of
from eqrlab.attractors.ensemble.recipe import Law
from eqrlab.core import Reasoner
from eqrlab.core.models.reasoner import restart_law
from eqrlab.datasets import PuzzleSet


def run_options(model: Reasoner, chosen: PuzzleSet, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `attractors.Run.of`: a family with one stored start is started from random states."""
    puzzles = {"labels": chosen.labels, "identifiers": chosen.identifiers, "oracle": chosen.oracle}
    return {**puzzles, "initial": restart_law(model), **part_of(given, at.RunOptions)}


def asked_law(model: Reasoner, starts: str | None) -> Law | None:
    """Return the `initial=` of --starts: None for the model's own law, random states, or not given what suits it.

    Raises
    ------
    ValueError
        For random states of a system in a Python file, which has a law of its own alone.
    """
    if starts != "random":
        return None if starts == "own" else restart_law(model)
    if not hasattr(model, "random_initial"):
        raise ValueError(
            "--starts random is for checkpoints: a system in a Python file has its own restart law"
        )
    return model.random_initial


def require_no_runs(*allowed: str) -> None:
    """Refuse options of the running command, but for these, beside archives, whose puzzles and runs are there already.

    Raises
    ------
    click.UsageError
        Naming the first that was given.
    """
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(str(option.name)) is click.core.ParameterSource.COMMANDLINE
        if given and option.name not in (*allowed, "out", "quiet", "as_json"):
            raise click.UsageError(f"archives have their puzzles and runs: leave out {option.opts[0]}")


def outside(model: Reasoner) -> str:
    """Return the note about random starts behind a description of a run, if they are outside the training law."""
    return "" if model.random_starts else ", from random states outside its training law"
