"""The puzzle embedding that each puzzle gets: that of its identifier, or the blank one, which is then reported."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import numpy as np

from eqrlab.core import Reasoner
from eqrlab.core.models.puzzle_table import BLANK
from eqrlab.datasets import PuzzleSet
from eqrlab.datasets.arc.files import identified
from eqrlab.datasets.npy import IDENTIFIERS, read_identifiers

BLANK_FLAG, FILE_OPTION = "eqrlab.puzzles.blank_identifiers", "eqrlab.puzzles.identifiers"


def with_identifiers(reasoner: Reasoner, puzzles: PuzzleSet) -> PuzzleSet:
    """Return puzzles with the identifiers that the model is to be given.

    A model with at most one puzzle embedding gets no identifiers.  --identifiers and --blank-identifiers of the
    running command are obeyed.

    Raises
    ------
    ValueError
        When the identifiers are not those of the model's table, as far as numbers and names tell.
    """
    context = click.get_current_context(silent=True)
    options = {} if context is None else context.meta
    if reasoner.identifiers < 2:
        if options.get(FILE_OPTION) is not None or options.get(BLANK_FLAG):
            click.echo(
                "eqrlab: a model without puzzle embeddings runs without the identifiers asked for", err=True
            )
        return dataclasses.replace(_named(puzzles), identifiers=None, identifier_names=())
    file, source = options.get(FILE_OPTION), puzzles.source
    if file is not None:
        names = read_identifiers(Path(file))
        if puzzles.identifiers is None:
            puzzles = identified(puzzles, names)
        else:
            puzzles = dataclasses.replace(puzzles, identifier_names=names)
        source = str(file)
    if options.get(BLANK_FLAG):
        return _blank(reasoner, puzzles, "as asked for by --blank-identifiers")
    if puzzles.identifiers is None:
        return _blank(
            reasoner, puzzles, "the puzzles have no identifiers (--identifiers FILE gives those of ARC tasks)"
        )
    known, there = len(puzzles.identifier_names), reasoner.identifiers
    if not known:
        raise ValueError(
            f"{source}: no {IDENTIFIERS} is there, so it is not known whether the model's {there:,} puzzle embeddings "
            f"are of these puzzles; put the one that the model was trained with beside them, or give "
            f"--identifiers FILE or --blank-identifiers"
        )
    if known != there:
        raise ValueError(
            f"{source}: {IDENTIFIERS} names {known:,} identifiers, the model has {there:,}: they come from different "
            "builds, and embeddings of other puzzles give no right answers; give the file that the model was trained "
            "with (--identifiers FILE), or --blank-identifiers"
        )
    return puzzles


def _named(puzzles: PuzzleSet) -> PuzzleSet:
    """Keep the names under which puzzles are shown, whatever identifiers a model is given."""
    if not puzzles.disguises:
        return puzzles
    return dataclasses.replace(puzzles, columns={**puzzles.columns, "disguise": puzzles.disguises})


def _blank(reasoner: Reasoner, puzzles: PuzzleSet, why: str) -> PuzzleSet:
    click.echo(
        f"note: all puzzles are given the blank one of the model's {reasoner.identifiers:,} puzzle embeddings, {why}; "
        "the published accuracy with it is 0 % (arXiv 2512.11847)",
        err=True,
    )
    blank = np.full(len(puzzles), BLANK)
    return dataclasses.replace(_named(puzzles), identifiers=blank, identifier_names=())


def whose(puzzles: PuzzleSet) -> str:
    """Return the note that identifiers are blank, to follow the name of the puzzles; else nothing."""
    blank = puzzles.identifiers is not None and not puzzles.identifiers.any()
    return ", under the blank identifier" if blank else ""
