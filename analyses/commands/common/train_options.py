"""The options of `eqrlab train`, some of which `eqrlab ladder` shares."""

from __future__ import annotations

import click

from eqrlab.analyses import options as opt
from eqrlab.analyses.studies.training_recipes import MODEL_NOISE
from eqrlab.core.models.config import MIXERS, POSITIONS
from eqrlab.core.training.objective import DTYPES, HALTINGS, REGULARISERS, SUPERVISIONS

threads = click.option("--threads", type=click.IntRange(1), help="Processor threads [default: all].")
device = opt.device(kind=click.Choice(["auto", "cpu", "cuda"]))
test_puzzles = click.option(
    "--test-puzzles", metavar="FILE|DIR", help="Held-out puzzles (default: the bundled set, if any)."
)
optimiser = opt.together(
    click.option("--steps", type=int, help="Optimiser steps of the run, one per segment of the whole batch."),
    click.option("--batch-size", type=int, help="Rows trained at a time."),
    click.option("--lr", type=opt.Real(0), help="Peak learning rate."),
    click.option("--weight-decay", type=opt.Real(0), help="Weight decay of the optimiser."),
    click.option(
        "--ema", type=opt.Real(0, 1), help="Decay of the averaged weights; the averages are what is saved."
    ),
)
blocks = opt.together(
    click.option("--hidden", type=int, help="Channels per position."),
    click.option("--heads", type=int, help="Attention heads."),
    click.option("--mixer", type=click.Choice(MIXERS), help="How positions exchange information."),
    click.option("--positions", type=click.Choice(POSITIONS), help="Position encoding."),
)
training = opt.together(
    optimiser,
    click.option("--warmup", type=int, help="Steps over which the learning rate rises to its peak."),
    opt.seed(None, "Seed of weights, data order, symmetries, starts and noise."),
    blocks,
    click.option("--layers", type=int, help="Blocks per level."),
    click.option("--box-gap", is_flag=True, help="rope2d: leave a gap between Sudoku boxes."),
    click.option("--h-cycles", type=int, help="Inner cycles of the high level in an outer step."),
    click.option("--l-cycles", type=int, help="Inner cycles of the low level in each cycle of the high level."),
    click.option("--halt-max-steps", type=int, help="Most outer steps for which a puzzle is trained at a time."),
    click.option("--damping", type=opt.Real(0, 1, max_open=True),
                 help="Share of the old state that a level call keeps (EqR)."),
    click.option("--noise", type=opt.Real(0),
                 help=f"Noise amplitude beta of a level call [default: {MODEL_NOISE} for eqr, else 0]."),
    click.option("--init-std", type=opt.Real(0),
                 help="Standard deviation sigma_0 of random starts (EqR); 0: every run starts at 0 [default: 1]."),
    click.option("--prefix", type=int, help="Prefix positions before the grid, which have a vector of their own."),
    click.option("--supervision", type=click.Choice(SUPERVISIONS),
                 help="A loss and a step in every segment (sot), or rollouts with losses at the end or at anchors."),
    click.option("--anchors", type=int, nargs=2, metavar="FIRST LAST",
                 help="First and last anchored outer step of a rollout."),
    click.option("--halting", type=click.Choice(HALTINGS), help="What ends a puzzle's segments in training."),
    click.option("--regulariser", type=click.Choice(REGULARISERS),
                 help="A term for late segments beside the objective: entropy of the answer, its change under a push "
                 "of the state, or the squared leading gain of an outer step."),
    click.option("--regulariser-weight", type=opt.Real(0), help="Weight of that term [default: 0.1]."),
    click.option("--dtype", type=click.Choice(list(DTYPES)), help="Precision of the state in training."),
)  # fmt: skip
