"""The schema of archives: every group, variable and attribute that is known, one row each.

SCHEMA.md is written from these tables (`make schema`), and `archive_rules` checks files against them, in a process that
imports nothing heavy.  To add a variable, add its row and run `make schema`.  One subject: the file is a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

SCHEMA_VERSION = 1  # of names, dimensions and attributes: see SCHEMA.md

FATES = ("settled", "periodic", "recurrent", "wandering", "unfinished", "diverged", "nonfinite")
ANSWER_FATES = ("constant", "periodic", "changing")
MODES = ("a", "b", "c", "d", "undecided")
ADVICE = (
    "deeper_is_enough", "more_restarts", "more_restarts_and_depth", "retrain", "buy_restarts", "buy_depth",
    "depth_will_not_tell",
)  # fmt: skip
STATUS = ("ok", "all_right", "all_wrong", "no_residual_spread")

FLOAT, INT, BOOL, COMPLEX, TEXT = "float", "int", "bool", "complex", "text"
EVERY, RESULTS = "every", "ensemble basins alignment modes"  # groups that have an attribute


class Variable(NamedTuple):
    """A variable of a group.

    Attributes
    ----------
    name
        With "?" behind it where not every archive has it.
    dims
        Dimensions in order, several possibilities joined by " or ", "-" for none; `state_*`: those of a state.
    kind
        One of the types above, or the meanings of the integer codes 0, 1, ...
    meaning
        A line, without its bounds: a variable NAME_low or NAME_high beside it has its dimensions and type.
    least, most
        Range of its numbers, None: no limit.  A dimension's name is the last of its numbers; "size of" it is one more.
    """

    name: str
    dims: str
    kind: str | tuple[str, ...]
    meaning: str
    least: float | None = None
    most: float | str | None = None


class Attribute(NamedTuple):
    """An attribute of groups: its name ("?" behind it: not in every one), where it is, its type, and its range."""

    name: str
    groups: str
    kind: str
    meaning: str
    least: float | None = None
    most: float | None = None


class Group(NamedTuple):
    """A group: what it holds, its variables, and the least numbers of coordinates that have one."""

    name: str
    text: str
    variables: tuple[Variable, ...]
    coordinates: Mapping[str, float] = {}


# fmt: off
ATTRIBUTES = (
    Attribute("Conventions", EVERY, "text", '"CF-1.11"'),
    Attribute("schema_version", EVERY, "int", "version of this page"),
    Attribute("title", EVERY, "text", "what it is"),
    Attribute("source", EVERY, "text", "program and versions"),
    Attribute("created", EVERY, "text", "when, UTC, ISO 8601"),
    Attribute("family", EVERY, "text", "family of the model, \"map\" for a map of one's own"),
    Attribute("task", EVERY, "text", "task of the model"),
    Attribute("config", EVERY, "json", "configuration of the model"),
    Attribute("history", RESULTS, "text", "when and by which command"),
    Attribute("checkpoint", RESULTS, "text", 'file name of the checkpoint, "none" for a map'),
    Attribute("checkpoint_sha256", RESULTS, "text", "its SHA-256"),
    Attribute("seed", RESULTS, "int", "randomness is keyed by (seed, input tokens, restart)"),
    Attribute("restarts", RESULTS, "int", "breadth B", least=1),
    Attribute("depth", RESULTS, "int", "depth D in outer steps", least=1),
    Attribute("noise", RESULTS, "float", "noise amplitude in every level call", least=0),
    Attribute("init_std", RESULTS, "text", 'standard deviations of the restart law, "none" where it has none'),
    Attribute("dtype", RESULTS, "one of float16 bfloat16 float32 float64", "precision of the iteration"),
    Attribute("device", RESULTS, "text", "where it ran"),
    Attribute("residuals?", RESULTS, "text", "sparse: measured at some steps, NaN at the others"),
    Attribute("products?", RESULTS, "text",
              'of bfloat16 matrices on a CPU: bfloat16, or "float32, rounded" where it has no instructions for them'),
    Attribute("tolerances", RESULTS, "json", "thresholds of the fates"),
    Attribute("oracle", RESULTS, "text", "what decided correctness"),
    Attribute("name?", EVERY, "text", "what reports call the checkpoint"),
    Attribute("checkpoint_provenance?", EVERY, "json", "what the checkpoint tells of its origin"),
    Attribute("checkpoint_source?", EVERY, "text", "path or name that it was loaded from"),
    Attribute("checkpoint_options?", EVERY, "json",
              "what was given beside it: configuration, settings, seq_len, weights, step"),
    Attribute("puzzles?", EVERY, "text", "where the puzzles are from"),
    Attribute("initial_law?", RESULTS, "text", "how starts are drawn"),
    Attribute("complete?", "ensemble", "int", "0: unfinished, `sampled` tells which runs there are", least=0, most=1),
    Attribute("batches?", "ensemble", "int", "number of batches it was computed in", least=1),
    Attribute("batch_size?", "ensemble", "int",
              "rows computed at once: with it a run is repeated bit for bit", least=1),
    Attribute("plan?", "ensemble", "json", "of an export: everything that its values depend on"),
    Attribute("request?", "ensemble", "json", "of a diagnosis: likewise"),
    Attribute("confidence?", "basins alignment modes", "float", "of the intervals", least=0, most=1),
    Attribute("rule?", "modes sensitivity", "json", "thresholds and prior of the modes"),
)

GROUPS = (
    Group("ensemble", "Trajectories: what `sample` gives and `eqrlab export` writes.", (
        Variable("residual", "puzzle restart step", FLOAT,
                 "noise-free residual ||f(z; x) - z|| over the whole state", least=0),
        Variable("relative_residual", "puzzle restart step", FLOAT,
                 "noise-free residual over the norm of the state", least=0),
        Variable("update", "puzzle restart step", FLOAT,
                 "norm of the last update as iterated, noise included", least=0),
        Variable("answer", "puzzle restart token", INT, "decoded answer after the last step"),
        Variable("answer_id", "puzzle restart step", INT,
                 "number of the answer among those its puzzle has seen", least=-1),
        Variable("fate", "puzzle restart", FATES, "what became of the trajectory: state and answer together"),
        Variable("state_fate", "puzzle restart", FATES, "what became of the state, whatever the answer"),
        Variable("answer_fate", "puzzle restart", ANSWER_FATES, "what became of the answer, whatever the state"),
        Variable("period", "puzzle restart", INT, "period in outer steps: 1 settled, 0 none", least=-1),
        Variable("answer_settled", "puzzle restart", INT, "first step since which the answer is unchanged", least=-1),
        Variable("settling_step", "puzzle restart", INT,
                 "step since which the state counts as settled, -1 never", least=-1),
        Variable("spread", "puzzle restart", FLOAT,
                 "root mean square radius of the last states over the norm", least=0),
        Variable("drift_rate?", "puzzle restart", FLOAT,
                 "share of its norm that a state moves in a step whose answer has settled while it drifts, NaN others"),
        Variable("scale", "puzzle restart", FLOAT,
                 "norm of the last state, at least 1/1000 of the largest: the unit of distances", least=0),
        Variable("sketch", "puzzle restart feature", FLOAT, "random projection of the long-run state"),
        Variable("orbit?", "puzzle restart phase coordinate", FLOAT,
                 "projected states of a cycle, or scattered over the later half of a run that goes on moving"),
        Variable("cycle_error?", "puzzle restart", FLOAT,
                 "estimated distance of a periodic run from its cycle over the norm"),
        Variable("inputs", "puzzle token or puzzle input_token", INT, "puzzle", least=0),
        Variable("identifier?", "puzzle", INT,
                 "identifier of the puzzle, the row of its embedding; where it was given one", least=0),
        Variable("correct?", "puzzle restart step", BOOL, "answer after this step is right"),
        Variable("token_accuracy?", "puzzle restart step", FLOAT,
                 "share of counted cells that agree with the label", least=0, most=1),
        Variable("labels?", "puzzle token", INT, "solution"),
        Variable("halt_logit?", "puzzle restart step", FLOAT, "logit of the halting head"),
        Variable("answer_entropy?", "puzzle restart step", FLOAT,
                 "mean over the cells that count of the entropy of the answer's distribution, in nats", least=0),
        Variable("answer_margin?", "puzzle restart step", FLOAT,
                 "least over the cells that count of the largest logit minus the second largest", least=0),
        Variable("final_state?", "puzzle restart state_*", FLOAT, "state after the last step"),
        Variable("sketch_path?", "puzzle restart step projection", FLOAT,
                 "random projection of the state after each step"),
        Variable("trajectory?", "puzzle restart step state_*", FLOAT, "state after each step"),
        Variable("logit_delta?", "puzzle restart step", FLOAT,
                 "2-norm of the change of the logits in the last step, mean over cells"),
        Variable("sampled?", "puzzle restart", BOOL, "this run is computed; only in unfinished archives"),
    ), {"restart": 0, "step": 1}),
    Group("basins", "Attractors of each puzzle, the largest first, NaN or -1 beyond a puzzle's last.", (
        Variable("mass", "puzzle attractor", FLOAT, "share of restarts that reach the attractor", least=0, most=1),
        Variable("count", "puzzle attractor", INT, "restarts that reach the attractor"),
        Variable("correct", "puzzle attractor", BOOL, "the attractor decodes to a right answer"),
        Variable("changing?", "puzzle attractor", BOOL,
                 "the answer does not stay the same on this recurrent set: neither correct nor spurious"),
        Variable("fate", "puzzle attractor", FATES, "kind of attractor, -1 where there is none"),
        Variable("period", "puzzle attractor", INT, "period in outer steps, 1 for fixed points"),
        Variable("residual", "puzzle attractor", FLOAT, "median final relative residual"),
        Variable("settling_step", "puzzle attractor", FLOAT, "median step since which runs count as settled"),
        Variable("dynamical", "puzzle attractor", INT,
                 "attractors with equal numbers agree in state within errors, -1 where there is none"),
        Variable("semantic", "puzzle attractor", INT,
                 "attractors with equal numbers agree in answer, -1 where there is none"),
        Variable("answer", "puzzle attractor token", INT, "answer the attractor decodes to, -1 where there is none"),
        Variable("attractor_id", "puzzle restart", INT,
                 "attractor a run ended at, -1 none, -2 restart not drawn", least=-2, most="attractor"),
        Variable("transient?", "puzzle restart", BOOL,
                 "on a recurrent set that other runs were seen to leave: at no attractor as far as one can tell"),
        Variable("attractors", "puzzle", INT, "number of attractors found", least=0, most="size of attractor"),
        Variable("unseen_mass", "puzzle", FLOAT,
                 "Good-Turing estimate of the mass of attractors not found", least=0, most=1),
        Variable("ambiguous", "puzzle", INT, "runs whose attractor is in doubt", least=0, most="size of restart"),
        Variable("restarts_used", "puzzle", INT, "restarts drawn", least=0, most="size of restart"),
        Variable("mass_none", "puzzle", FLOAT, "share of restarts that reach no attractor", least=0, most=1),
        Variable("correct_mass", "puzzle", FLOAT, "share of restarts at correct attractors", least=0, most=1),
        Variable("spurious_mass", "puzzle", FLOAT,
                 "share of restarts at attractors that decode to a wrong answer", least=0, most=1),
        Variable("changing_mass?", "puzzle", FLOAT, "share of restarts at recurrent sets whose answer changes"),
        Variable("stop?", "puzzle", ("precise", "decided", "max_restarts", "ambiguous"),
                 "why no more restarts were drawn"),
        Variable("half_width?", "puzzle", FLOAT, "half of the widest interval of a mass"),
        Variable("correct_mass_above?", "puzzle", ("undecided", "below", "above"),
                 "whether the correct mass is above the one asked about"),
    )),
    Group("alignment", "Residual against correctness, and the accuracy of selectors.", (
        Variable("auc", "depth", FLOAT,
                 "probability that the wrong one of a right and a wrong run has the higher residual", least=0, most=1),
        Variable("auc_within", "depth", FLOAT,
                 "the same within a puzzle, averaged over puzzles that have both", least=0, most=1),
        Variable("spearman", "depth", FLOAT, "rank correlation of residual and error"),
        Variable("status", "depth", STATUS, "why a correlation is undefined"),
        Variable("auc_puzzle", "puzzle depth", FLOAT, "AUC within the puzzle", least=0, most=1),
        Variable("accuracy", "selector depth", FLOAT,
                 "share of puzzles whose chosen answer is right", least=0, most=1),
        Variable("accuracy_puzzle", "puzzle selector depth", FLOAT,
                 "chance that the chosen answer is right", least=0, most=1),
    ), {"depth": 1}),
    Group("signals", "How well each signal of an answer tells right from wrong.", (
        Variable("auc_within", "signal", FLOAT,
                 "probability that the wrong one of two runs of a puzzle looks worse, mean over puzzles",
                 least=0, most=1),
        Variable("auc_across", "signal", FLOAT, "the same of runs of different puzzles", least=0, most=1),
        Variable("accuracy", "signal", FLOAT, "share of puzzles whose chosen answer is right", least=0, most=1),
        Variable("gain", "signal", FLOAT, "that accuracy above that of one restart"),
        Variable("risk_area", "signal", FLOAT, "mean over coverages of the share of wrong answers", least=0, most=1),
        Variable("least_risk_area", "signal", FLOAT, "that mean if right answers came first", least=0, most=1),
        Variable("risk", "signal coverage", FLOAT,
                 "share of wrong answers among the puzzles answered, those whose answers look best", least=0, most=1),
        Variable("trusted_accuracy", "-", FLOAT, "accuracy of the trusted signal on the half that did not choose it"),
        Variable("trusted_gain", "-", FLOAT, "that accuracy above that of least residual, on the same half"),
        Variable("held_out", "puzzle", BOOL, "of the half that did not choose the trusted signal"),
    )),
    Group("modes",
          "Landscape modes. `mode` is a variable over `puzzle`, so the dimension `mode` has the coordinate "
          "`mode_name`; in memory the arrays have its names as their coordinate `mode` (`attractors.read` gives "
          "results so).", (
        Variable("mode_probability", "puzzle mode", FLOAT, "posterior probability of the mode", least=0, most=1),
        Variable("advice", "puzzle", ADVICE,
                 "what compute can buy: a retrain, b restarts, c both, d depth; or what would decide"),
        Variable("count_correct", "puzzle", INT, "runs at correct attractors", least=0),
        Variable("count_spurious", "puzzle", INT, "runs at attractors that decode to a wrong answer", least=0),
        Variable("count_unsettled", "puzzle", INT, "runs at no attractor: wandering, diverged, nonfinite", least=0),
        Variable("count_unfinished", "puzzle", INT, "runs that were still settling at the last step", least=0),
        Variable("restarts_needed", "puzzle", INT, "restarts that would decide, -1 beyond buying", least=-1),
        Variable("depth_needed", "puzzle", INT,
                 "depth at which 9 in 10 unfinished runs would rest, -1 unknown", least=-1),
        Variable("correct_mass_high", "puzzle", FLOAT, "upper bound of the mass of correct attractors, 95%"),
        Variable("landscape_share", "mode", FLOAT, "mean probability of the mode over puzzles", least=0, most=1),
        Variable("population_share", "mode", FLOAT,
                 "share of the mode among all puzzles of the kind, estimated jointly"),
        Variable("landscape_mode", "-", MODES, "mode with the largest share, if that is sure"),
        Variable("landscape_probability", "-", FLOAT,
                 "bootstrap probability that it has the largest share", least=0, most=1),
        Variable("mode", "puzzle", MODES, "landscape mode of the puzzle"),
    )),
    Group("spectrum", "Eigenvalues of the Jacobian at states examined.", (
        Variable("eigenvalue", "puzzle point eig", COMPLEX, "eigenvalue of the Jacobian"),
        Variable("eigen_residual", "puzzle point eig", FLOAT, "||J v - value v|| / |value|, measured"),
        Variable("eigen_error?", "puzzle point eig", FLOAT,
                 "bound on the distance to the exact eigenvalue, infinite where it is not known"),
        Variable("converged", "puzzle point eig", BOOL, "residual and error are within the tolerance"),
        Variable("eigen_condition?", "puzzle point eig", FLOAT, "condition number 1 / |w* v|"),
        Variable("spectral_radius", "puzzle point", FLOAT, "largest modulus among the eigenvalues found"),
        Variable("complete?", "puzzle point", BOOL, "all eigenvalues found converged"),
        Variable("products?", "puzzle point", INT, "Jacobian products spent"),
        Variable("attractor?", "puzzle point", INT,
                 "number of the attractor among those of its puzzle, -1 none", least=-1),
        Variable("restart?", "puzzle point", INT, "run that stands for the attractor, -1 none", least=-1),
        Variable("residual?", "puzzle point", FLOAT, "relative residual, noise off, at the state examined"),
        Variable("sigma_1?", "puzzle point", FLOAT, "largest singular value of df/dz"),
        Variable("predicted_rate?", "puzzle point", FLOAT,
                 "factor a small error falls by in a step, by the spectrum"),
        Variable("measured_rate?", "puzzle point", FLOAT, "factor the residual falls by in a step after a push"),
        Variable("exponent?", "puzzle point", FLOAT, "leading Lyapunov exponent where the state keeps moving"),
        Variable("exponent_low?", "puzzle point", FLOAT, "lower bound of that exponent"),
        Variable("exponent_high?", "puzzle point", FLOAT, "upper bound of that exponent"),
        Variable("returns?", "puzzle point", ("returns", "leaves", "undecided", "not_tested"),
                 "does a push come back"),
        Variable("verdict?", "puzzle point", ("none", "stable", "saddle", "no_fixed_point", "undecided"),
                 "what the state is"),
    )),
    Group("fixed_points", "Searches for fixed points.", (
        Variable("identifier?", "puzzle", INT,
                 "identifier of the puzzle, the row of its embedding; where it was given one"),
        Variable("fixed_point", "puzzle point state_*", FLOAT, "state reached"),
        Variable("residual", "puzzle point", FLOAT, "||f(z) - z||, for a cycle ||f^period(z) - z||"),
        Variable("relative_residual", "puzzle point", FLOAT, "residual over the norm of the state"),
        Variable("result", "puzzle point", ("converged", "at_floor", "periodic", "wandering", "diverged",
                 "nonfinite", "budget"),
                 "outcome of the search"),
        Variable("stage", "puzzle point", ("picard", "anderson", "newton", "projection", "none"),
                 "search that decided it"),
        Variable("period", "puzzle point", INT, "period in outer steps: 1 fixed, 0 none"),
        Variable("evaluations", "puzzle point", INT, "step evaluations spent"),
        Variable("products", "puzzle point", INT, "Jacobian products spent"),
        Variable("solution", "puzzle point", INT, "number of the distinct fixed point, -1 none"),
        Variable("representative", "puzzle point", BOOL, "the point with the smallest residual of its solution"),
        Variable("stable", "puzzle point", BOOL, "certainly stable"),
        Variable("stability?", "puzzle point", ("stable", "unstable", "undecided"),
                 "what is known of it, -1 no solution"),
        Variable("spectral_radius", "puzzle point", FLOAT, "largest modulus of an eigenvalue, over a whole period"),
        Variable("eigenvalue", "puzzle point eig", COMPLEX, "leading eigenvalues, over a whole period"),
        Variable("sigma_min", "puzzle point", FLOAT, "smallest singular value of I - J, estimated from above"),
        Variable("error_bound", "puzzle point", FLOAT, "2 residual / sigma_min: distance to the exact fixed point"),
        Variable("forward_drift", "puzzle point", FLOAT, "largest relative distance from it within 64 steps"),
        Variable("return_ratio", "puzzle point", FLOAT,
                 "perturbation after 64 steps over that before, worst of three"),
        Variable("answer_returns", "puzzle point", BOOL, "all perturbed twins end with the unperturbed answer"),
        Variable("ambiguous", "puzzle", INT, "pairs of points that could be merged or not"),
        Variable("start", "point", INT, "number of the start"),
    )),
    Group("disguises", "Tests of ARC tasks that were shown in several disguises: are all answered alike?", (
        Variable("disguises", "case", INT, "disguises of the test that were run", least=1),
        Variable("mass_disguises", "case", FLOAT, "share of disguises with the answer of the test", least=0, most=1),
        Variable("mass_restarts", "case", FLOAT,
                 "share of restarts with the answer of their disguise", least=0, most=1),
        Variable("mass_right", "case", FLOAT, "share of disguises whose answer is right", least=0, most=1),
        Variable("answers", "case", INT, "different answers of disguises, undone", least=1),
        Variable("attracted", "case", FLOAT, "share of runs that ended at an attractor", least=0, most=1),
        Variable("test", "case", INT, "number of the test in its task"),
    )),
    Group("compare", "Checkpoints side by side, on the same puzzles.", (
        Variable("value", "checkpoint quantity", FLOAT, "mean over puzzles"),
        Variable("difference", "checkpoint quantity", FLOAT,
                 "mean difference to the first checkpoint, paired by puzzle"),
        Variable("puzzles_compared", "checkpoint quantity", INT, "puzzles where both define the quantity"),
    )),
    Group("plane", "Basins on a plane through state space.", (
        Variable("attractor_id", "puzzle v u", INT, "attractor the cell leads to, -1 none"),
        Variable("fate", "puzzle v u", FATES, "what became of the cell"),
        Variable("settling_step", "puzzle v u", INT, "step since which the state counts as settled, -1 never"),
        Variable("answer_settled", "puzzle v u", INT, "first step since which the answer is unchanged"),
        Variable("answer_id", "puzzle v u", INT, "number of the answer among those on the plane"),
        Variable("correct", "puzzle v u", BOOL, "the answer at the end is right"),
        Variable("steps", "puzzle v u", INT, "steps taken before the fate was decided"),
        Variable("answer", "puzzle answer_number token", INT, "answers on the plane, -1 beyond the last"),
        Variable("fraction", "puzzle attractor", FLOAT, "share of the plane that leads to the attractor"),
        Variable("fraction_none", "puzzle", FLOAT, "share of the plane that leads to no attractor"),
        Variable("fraction_away", "puzzle", FLOAT, "share that diverges or is not finite"),
        Variable("fraction_correct", "puzzle", FLOAT, "share that ends right"),
        Variable("attractor_correct", "puzzle attractor", BOOL, "most of its cells end with a right answer"),
        Variable("basin_entropy", "puzzle label", FLOAT, "mean entropy of the labels in a box, in nats"),
        Variable("boundary_entropy", "puzzle label", FLOAT,
                 "mean entropy of the boxes through which a border runs, in nats"),
        Variable("uncertainty_exponent", "puzzle label", FLOAT, "alpha in f(epsilon) ~ epsilon^alpha"),
        Variable("boundary_dimension", "puzzle label", FLOAT, "2 - alpha: dimension of the borders on the plane"),
        Variable("boundary_share", "puzzle label", FLOAT,
                 "share of cells whose upper or right neighbour has another label"),
        Variable("uncertain", "puzzle label lag", FLOAT,
                 "share f(epsilon) of cells with another label at distance epsilon"),
        Variable("epsilon", "lag", FLOAT, "distance at which labels are compared, in units of `unit`"),
        Variable("mark_u", "puzzle point", FLOAT, "given state, first axis"),
        Variable("mark_v", "puzzle point", FLOAT, "given state, second axis"),
        Variable("unit", "puzzle", FLOAT, "length of 1 on the axes, in state space"),
        Variable("identifier?", "puzzle", INT,
                 "identifier of the puzzle, the row of its embedding; where it was given one"),
        Variable("inputs", "puzzle input_token", INT, "puzzle"),
    )),
    Group("prolonged", "Fates of the same runs at growing depth.", (
        Variable("identifier?", "puzzle", INT,
                 "identifier of the puzzle, the row of its embedding; where it was given one"),
        Variable("fate", "puzzle restart depth", FATES, "what became of the trajectory: state and answer together"),
        Variable("state_fate", "puzzle restart depth", FATES, "what became of the state, whatever the answer"),
        Variable("answer_fate", "puzzle restart depth", ANSWER_FATES,
                 "what became of the answer, whatever the state"),
        Variable("residual", "puzzle restart depth", FLOAT,
                 "noise-free residual ||f(z; x) - z|| over the whole state"),
        Variable("relative_residual", "puzzle restart depth", FLOAT,
                 "noise-free residual over the norm of the state"),
        Variable("correct", "puzzle restart depth", BOOL, "answer at this depth is right"),
        Variable("followed", "puzzle restart depth", BOOL,
                 "the run was continued to this depth; else its last values are repeated"),
        Variable("answer", "puzzle restart token", INT, "answer after the last step"),
    )),
    Group("outcomes", "Settled or not against right or wrong, by depth.", (
        Variable("share", "depth settling correctness", FLOAT, "share of the runs"),
        Variable("fate_share", "depth fate_name correctness", FLOAT, "share of the runs"),
        Variable("accuracy", "depth", FLOAT, "share of the runs that are right"),
        Variable("settled_of_wrong", "depth", FLOAT, "share of the wrong runs that settled"),
        Variable("unfinished_of_wrong", "depth", FLOAT, "share of the wrong runs that are unfinished"),
        Variable("late_solved", "depth", FLOAT, "share of runs wrong at first, right now"),
        Variable("reverted", "depth", FLOAT, "share of runs right before, wrong now"),
        Variable("collapsed", "depth", FLOAT, "share of runs settled and right before, wrong now"),
        Variable("count", "depth settling correctness", INT, "runs"),
        Variable("fate_count", "depth fate_name correctness", INT, "runs"),
        Variable("auc", "depth", FLOAT,
                 "probability that the wrong one of a right and a wrong run has the higher relative residual"),
        Variable("right_below", "depth", FLOAT,
                 "share of the right runs whose residual is below that of every wrong run"),
        Variable("least_wrong", "depth", FLOAT, "smallest relative residual of a wrong run"),
        Variable("residual_quantile", "depth correctness quantile", FLOAT,
                 "quantile of the relative residual over runs"),
    ), {"depth": 1}),
    Group("commit", "Commit and restart against plain restarts, at equal cost.", (
        Variable("committed", "puzzle", BOOL, "no run of the first stage was accepted"),
        Variable("answer", "puzzle token", INT, "answer chosen"),
        Variable("correct", "puzzle", BOOL, "the answer is right"),
        Variable("correct_first", "puzzle", BOOL, "that of the first stage alone is"),
        Variable("correct_restarts", "puzzle", BOOL, "that with plain restarts in the second stage is"),
        Variable("any_correct_restarts", "puzzle", BOOL, "some run is right, with plain restarts"),
        Variable("nfe", "puzzle", INT, "outer steps of all runs of the puzzle"),
        Variable("written", "puzzle", FLOAT, "mean number of clues a run wrote"),
        Variable("written_right", "puzzle", FLOAT,
                 "share of the clues written that agree with the labels", least=0, most=1),
        Variable("accuracy", "-", FLOAT, "share of puzzles answered right", least=0, most=1),
        Variable("accuracy_first", "-", FLOAT,
                 "share of puzzles answered right by the first stage alone", least=0, most=1),
        Variable("accuracy_restarts", "-", FLOAT,
                 "share of puzzles answered right with plain restarts in the second stage", least=0, most=1),
        Variable("gain", "-", FLOAT, "accuracy above that with plain restarts"),
        Variable("rescued", "-", FLOAT,
                 "share answered right of the puzzles that all plain restarts get wrong", least=0, most=1),
    )),
    Group("noop", "Whether the map moves its state and heeds its input.", (
        Variable("moved", "puzzle", FLOAT, "median relative length of the first step"),
        Variable("memory", "puzzle", FLOAT, "share of the differences between starts found again in the ends"),
        Variable("input_effect", "puzzle", FLOAT,
                 "median relative distance between ends under this input and the next"),
        Variable("acts", "puzzle", BOOL, "the first step moves the state"),
        Variable("z_survives", "puzzle", BOOL, "the start can be read off the end"),
        Variable("blind", "puzzle", BOOL, "another input gives the same ends"),
        Variable("answer_fixed", "puzzle", BOOL, "every start decodes to the final answer before any step"),
    )),
    Group("return_test", "Whether small pushes come back.", (
        Variable("result", "puzzle point", ("returns", "leaves", "undecided", "not_tested"),
                 "whether small pushes come back"),
        Variable("margin", "puzzle point", FLOAT, "largest relative push that came back from every direction tried"),
        Variable("twin_moved", "puzzle point", FLOAT,
                 "distance from the tested state to the twin's last states, relative"),
        Variable("left", "puzzle point size direction", FLOAT, "share of the push that is left"),
        Variable("answer_back", "puzzle point size direction", BOOL, "the answer at the end is the twin's"),
        Variable("correct", "puzzle point", BOOL, "the run tested was right"),
        Variable("settled", "puzzle point", BOOL, "the run had settled"),
    )),
    Group("sensitivity", "Verdicts when one threshold or prior of the modes is moved.", (
        Variable("mode", "puzzle variation", MODES, "landscape mode of the puzzle"),
        Variable("mode_probability", "puzzle variation mode", FLOAT, "posterior probability of the mode"),
        Variable("landscape_mode", "variation", MODES, "mode of the checkpoint"),
        Variable("changed", "variation", FLOAT, "share of puzzles with another verdict"),
        Variable("reversed", "variation", FLOAT, "share of puzzles with another mode, both decided"),
    )),
    Group("continuation", "Attractors, masses and modes over the values of a parameter.", (
        Variable("mass", "value puzzle branch", FLOAT, "share of restarts that reach the branch"),
        Variable("count", "value puzzle branch", INT, "restarts that reach the branch"),
        Variable("alive", "value puzzle branch", BOOL, "the branch is an attractor at this value"),
        Variable("correct", "value puzzle branch", BOOL, "the branch decodes to a right answer at this value"),
        Variable("event", "value puzzle branch", ("absent", "first", "continues", "born"),
                 "what happened to the branch since the value before"),
        Variable("goes_to", "value puzzle branch", INT,
                 "branch it ends at under the next value, -1 none, -2 several"),
        Variable("step_length", "value puzzle branch", FLOAT,
                 "distance from the branch at the value before, over the norm"),
        Variable("answer", "puzzle branch token", INT, "answer of the branch where it first appears"),
        Variable("attractors", "value puzzle", INT, "branches that are attractors"),
        Variable("born", "value puzzle", INT, "branches born since the value before"),
        Variable("died", "value puzzle", INT, "branches that died since the value before"),
        Variable("correct_mass", "value puzzle", FLOAT, "share of restarts at correct attractors"),
        Variable("spurious_mass", "value puzzle", FLOAT,
                 "share of restarts at attractors that decode to a wrong answer"),
        Variable("mass_none", "value puzzle", FLOAT, "share of restarts that reach no attractor"),
        Variable("unseen_mass", "value puzzle", FLOAT, "Good-Turing estimate of the mass of attractors not found"),
        Variable("accuracy?", "value", FLOAT, "share of runs right at the last step"),
        Variable("mode?", "value puzzle", MODES, "landscape mode of the puzzle"),
        Variable("mode_probability?", "value puzzle mode", FLOAT, "posterior probability of the mode"),
        Variable("landscape_mode?", "value", MODES, "mode with the largest share, if that is sure"),
        Variable("landscape_share?", "value mode", FLOAT, "mean probability of the mode over puzzles"),
    )),
    Group("shells", "Basin masses of starts at fixed radii.", (
        Variable("shell_mass", "puzzle radius attractor", FLOAT,
                 "share of the shell's starts that reach the attractor"),
        Variable("shell_count", "puzzle radius attractor", INT, "starts of the shell that reach the attractor"),
        Variable("dependence_p", "puzzle", FLOAT, "probability that shells of equal masses differ as much"),
        Variable("attractors", "puzzle", INT, "number of attractors found"),
        Variable("correct", "puzzle attractor", BOOL, "the attractor decodes to a right answer"),
        Variable("fate", "puzzle attractor", FATES, "kind of attractor, -1 where there is none"),
        Variable("answer", "puzzle attractor token", INT, "answer the attractor decodes to, -1 where there is none"),
        Variable("mass", "puzzle attractor", FLOAT, "share of restarts that reach the attractor"),
        Variable("ambiguous", "puzzle", INT, "runs whose attractor is in doubt"),
        Variable("mass_none", "puzzle radius", FLOAT, "share of restarts that reach no attractor"),
        Variable("correct_mass", "puzzle radius", FLOAT, "share of restarts at correct attractors"),
        Variable("spurious_mass", "puzzle radius", FLOAT,
                 "share of restarts at attractors that decode to a wrong answer"),
    )),
    Group("transitions", "Where noise carries runs from each attractor.", (
        Variable("probability", "noise puzzle source target", FLOAT,
                 "probability to end in the basin of the target after the noisy steps"),
        Variable("count", "noise puzzle source target", INT, "trials that did"),
        Variable("escape", "noise puzzle source", FLOAT,
                 "probability to end outside the own basin after the noisy steps"),
        Variable("escape_rate", "noise puzzle source", FLOAT, "rate of escape per outer step, were it memoryless"),
        Variable("mass", "puzzle source", FLOAT, "share of the ensemble's restarts at the attractor"),
        Variable("correct", "puzzle source", BOOL, "the attractor decodes to a right answer"),
        Variable("present", "puzzle source", BOOL, "the puzzle has that attractor"),
    )),
)
# fmt: on
