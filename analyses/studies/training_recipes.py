"""How models of each task are trained unless options say otherwise: the bundled models were trained like this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eqrlab.core.checkpoints.build import configure
from eqrlab.core.training.objective import RECIPES as FAMILY_RECIPES
from eqrlab.core.training.objective import TrainConfig
from eqrlab.datasets import task as task_named

# Option name -> name in the model's configuration, and in the training's.
_MODEL = {
    "hidden": "hidden_size",
    "layers": "layers",
    "heads": "num_heads",
    "mixer": "mixer",
    "positions": "positions",
    "h_cycles": "H_cycles",
    "l_cycles": "L_cycles",
    "halt_max_steps": "halt_max_steps",
    "damping": "damping",
    "noise": "noise_scale",
    "prefix": "prefix_len",
}
_TRAIN = {
    "steps": "steps",
    "batch_size": "batch_size",
    "lr": "lr",
    "warmup": "warmup",
    "weight_decay": "weight_decay",
    "ema": "ema",
    "seed": "seed",
    "dtype": "dtype",
    "compile": "compile",
    "supervision": "supervision",
    "anchors": "anchors",
    "halting": "halting",
    "regulariser": "regulariser",
    "regulariser_weight": "regulariser_weight",
}
OPTIONS = (*_MODEL, *_TRAIN, "init_std", "box_gap")  # what `configurations` reads beside the family
MODEL_NOISE = (
    0.01  # beta that EqR is trained with unless asked otherwise, as in the paper; other families have none
)


@dataclass(frozen=True)
class Recipe:
    """Options of one task that differ from the defaults of the family's and the training's configuration."""

    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


# Families whose own defaults hardly learn a board: attention that counts places instead of rows and columns.
FAMILY_MODELS: dict[str, dict[str, Any]] = {
    "hrm": {"mixer": "mlp", "positions": "none"},
    "urm": {"mixer": "attention", "positions": "rope2d"},
}
SMALL_MAZE = 15  # side up to which a mixer over the cells learns mazes sooner than attention does

RECIPES = {
    "sudoku4": Recipe({"hidden_size": 32, "halt_max_steps": 4}, {"steps": 1000}),
    "sudoku6": Recipe({"halt_max_steps": 8}, {"steps": 4000}),
    "sudoku9": Recipe({"hidden_size": 128, "L_cycles": 3, "halt_max_steps": 8}, {"steps": 6000}),
    "small maze": Recipe({"mixer": "mlp", "positions": "none", "halt_max_steps": 8}, {"steps": 2000}),
    "maze": Recipe(
        {"mixer": "attention", "positions": "rope2d", "halt_max_steps": 8}, {"steps": 4000, "lr": 1e-3}
    ),
    "grid": Recipe({"mixer": "attention", "positions": "rope2d", "halt_max_steps": 8}, {"steps": 4000}),
    "sequence": Recipe({"mixer": "attention", "positions": "rope", "halt_max_steps": 8}, {"steps": 4000}),
}


PRESETS = ("paper", "paper-small")
_PAPER = {
    "batch_size": 768, "lr": 1e-4, "lr_min_ratio": 1.0, "warmup": 2000, "weight_decay": 1.0,
    "beta1": 0.9, "beta2": 0.95, "ema": 0.999, "halt_weight": 0.5, "dtype": "bfloat16",
}  # fmt: skip
_LARGE = {"hidden_size": 512, "num_heads": 8, "layers": 2, "H_cycles": 3, "halt_max_steps": 16}
_ATTENTION = {"mixer": "attention", "positions": "rope"}
_PREFIX = {"prefix_len": 16}  # TRM has its puzzle embedding in front of the grid
_EQR_MAZE = {**_ATTENTION, "layers": 1, "H_cycles": 3, "L_cycles": 4, "halt_max_steps": 16}
# The models of the paper and their training: (preset, task, family).
PAPER: dict[tuple[str, str, str], Recipe] = {
    ("paper", "sudoku9", "eqr"): Recipe({**_LARGE, "L_cycles": 6}, {**_PAPER, "steps": 50000}),
    ("paper", "sudoku9", "trm"): Recipe({**_LARGE, **_PREFIX, "L_cycles": 6}, {**_PAPER, "steps": 50000}),
    ("paper", "maze30", "eqr"): Recipe(
        {**_EQR_MAZE, "hidden_size": 128, "num_heads": 8}, {**_PAPER, "steps": 100000}
    ),
    ("paper", "maze30", "trm"): Recipe(
        {**_LARGE, **_ATTENTION, **_PREFIX, "L_cycles": 4}, {**_PAPER, "steps": 100000}
    ),
    (
        "paper-small",
        "maze30",
        "eqr",
    ): Recipe(  # 44 channels allow heads of 22, 2 of them, for rotary positions
        {**_EQR_MAZE, "hidden_size": 44, "num_heads": 2},
        {**_PAPER, "steps": 100000, "lr": 1e-3, "weight_decay": 0.1},
    ),
}


def preset(name: str, task: str, family: str) -> Recipe:
    """Return the recipe of a preset.

    Raises
    ------
    ValueError
        If there is no preset for this task and family; the message lists the presets.
    """
    if (name, task, family) not in PAPER:
        known = ", ".join(f"{n} for {f} on {t}" for n, t, f in PAPER)
        raise ValueError(f"no preset {name!r} for {family} on {task}; there are {known}")
    return PAPER[name, task, family]


def recipe(task: str) -> Recipe:
    """Return the recipe of a task; mazes share one up to SMALL_MAZE cells per side, and one beyond, others have one.

    Raises
    ------
    ValueError
        If there is no such task.
    """
    known = task_named(task)
    if known.kind == "maze":
        return RECIPES["small maze" if max(known.board) <= SMALL_MAZE else "maze"]
    usual = "sudoku9" if known.kind == "sudoku" else "grid" if known.is_grid else "sequence"
    return RECIPES.get(known.name) or RECIPES[usual]


def board_options(task: str, gap: bool) -> dict[str, Any]:
    """Return the board of a task for "rope2d" positions; `gap` leaves one coordinate free between Sudoku boxes."""
    known = task_named(task)
    options: dict[str, Any] = {"board": known.board}
    if gap and known.boxes is not None:
        options["box"] = known.boxes
    return options


def configurations(task: str, options: dict[str, Any], device: str) -> tuple[dict[str, Any], TrainConfig]:
    """Return the configurations of model and training for command-line options; None stands for "not given".

    Options that were given win over the recipe of the family, this over that of the task, and this over the defaults.

    Raises
    ------
    ValueError
        If there is no such task, or no model or run can have these options.
    """
    chosen_preset = options.get("preset")
    given = {new: options[old] for old, new in _MODEL.items() if options[old] is not None}
    family = options["family"]
    usual = preset(chosen_preset, task, family) if chosen_preset else recipe(task)
    usual_model = {**({} if chosen_preset else FAMILY_MODELS.get(family, {})), **usual.model}
    if family == "eqr":
        usual_model["noise_scale"] = MODEL_NOISE
    if (deviation := options.get("init_std")) is not None:
        given |= {"H_init_std": deviation, "L_init_std": deviation}
    if family == "feedforward":  # it has no cycles and a single step
        usual_model = {k: v for k, v in usual_model.items() if k not in ("L_cycles", "halt_max_steps")}
    known = task_named(task)
    model = {"vocab_size": known.vocab_size, "seq_len": known.seq_len, **usual_model, **given}
    if model.get("positions") == "rope2d":
        model |= board_options(task, options["box_gap"] or "positions" not in given)
    elif options["box_gap"]:
        raise ValueError("--box-gap needs --positions rope2d")
    if options["regulariser_weight"] is not None and options["regulariser"] is None:
        raise ValueError("--regulariser-weight needs --regulariser")
    width = configure(family, model).hidden_size
    if model.get("prefix_len"):
        model["prefix_dim"] = width
    chosen = {new: options[old] for old, new in _TRAIN.items() if options[old] is not None}
    usual_dtype: dict[str, Any] = {"dtype": "bfloat16"} if device == "cuda" else {}
    if chosen_preset:
        usual_dtype["compile"] = device == "cuda"
    return model, TrainConfig(**{**usual_dtype, **usual.train, **FAMILY_RECIPES.get(family, {}), **chosen})
