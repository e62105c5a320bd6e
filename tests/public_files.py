"""Random weights in files of exactly the shapes, names and configurations of the public checkpoints.

`python -m tests.public_files FOLDER [NAME ...]` writes them: what cannot be downloaded can be tried all the same.
Sizes and options are those that the repositories show; values are random, so answers mean nothing.  Tables of puzzle
embeddings are holes in the file, which take no place.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from eqrlab.core import Reasoner, build
from tests.core_models import urm_state
from tests.sparse_checkpoint import write_sparse

COMPILED = "_orig_mod.model.inner."
NAMES = {"embed_tokens.prefix": "puzzle_emb.weights"}
CLASSES = {
    "eqr": "eqr@EqRModel",
    "trm": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
    "hrm": "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1",
    "urm": "urm.urm@URM",
}


class Public(NamedTuple):
    """A public checkpoint: what it is of, and how its file looks.

    Attributes
    ----------
    repository, file
        Where it is.
    family, cells, tokens
        Family, grid cells and vocabulary.
    options
        Options of the network that differ from the common ones.
    identifiers
        Rows of the table of puzzle embeddings.
    prefix
        What the names of tensors begin with.
    yaml
        Whether a configuration lies beside it.
    bytes
        Published size of the file, where it is known.
    """

    repository: str
    file: str
    family: str
    cells: int
    tokens: int
    options: dict[str, Any]
    identifiers: int = 1
    prefix: str = COMPILED
    yaml: bool = True
    bytes: int | None = None


TRM = {"layers": 2, "H_cycles": 3, "L_cycles": 4, "mixer": "attention", "positions": "rope", "prefix_len": 16}
MLP = {**TRM, "L_cycles": 6, "mixer": "mlp", "positions": "none"}
HRM = {"layers": 4, "H_layers": 4, "H_cycles": 2, "L_cycles": 2, "prefix_len": 1}
PUBLIC = {
    "hrm-sudoku": Public("sapientinc/HRM-checkpoint-sudoku-extreme", "checkpoint", "hrm", 81, 11, HRM),
    "hrm-maze": Public("sapientinc/HRM-checkpoint-maze-30x30-hard", "checkpoint", "hrm", 900, 6, HRM),
    "hrm-arc2": Public("sapientinc/HRM-checkpoint-ARC-2", "checkpoint", "hrm", 900, 12, HRM, 1_045_829),
    "trm-arc1": Public("arcprize/trm_arc_prize_verification", "step_518071", "trm", 900, 12, TRM, 876_406,
                       bytes=1_822_205_258),
    "trm-arc2": Public("arcprize/trm_arc_prize_verification", "step_723914", "trm", 900, 12, TRM, 1_191_730,
                       bytes=2_467_988_810),
    "trm-sudoku-mlp": Public("Sanjin2024/TinyRecursiveModels-Sudoku-Extreme-mlp", "step_16275", "trm", 81, 11, MLP),
    "trm-sudoku-att": Public("Sanjin2024/TinyRecursiveModels-Sudoku-Extreme-att", "step_21700", "trm", 81, 11,
                             {**TRM, "L_cycles": 6}),
    "trm-maze": Public("Sanjin2024/TinyRecursiveModel-Maze-Hard", "step_9765", "trm", 900, 6, TRM),
    "trm-maze-bare": Public("alphaXiv/trm-model-maze", "maze_hard_step_32550", "trm", 900, 6, TRM,
                            prefix="model.inner.", yaml=False),
    "eqr-sudoku": Public("EqR, sudoku-extreme", "eqr.pth", "eqr", 81, 11, MLP),
    "eqr-maze": Public("EqR, maze-unique", "eqr.pth", "eqr", 900, 6,
                       {**TRM, "hidden_size": 128, "layers": 1}),
    "urm-sudoku": Public("URM, sudoku (no public weights)", "step_50000.pt", "urm", 81, 11,
                         {"layers": 4, "H_cycles": 2, "L_cycles": 6, "prefix_len": 1}),
}  # fmt: skip


def model_of(public: Public) -> Reasoner:
    """Return a random model of its shape, as its code initialises it."""
    hidden = public.options.get("hidden_size", 512)
    common = {"vocab_size": public.tokens, "seq_len": public.cells, "hidden_size": 512, "num_heads": 8}
    noise = {"noise_scale": 0.01} if public.family == "eqr" else {}
    torch.manual_seed(0)
    return build(public.family, {**common, "prefix_dim": hidden, **public.options, **noise})


def configuration(model: Reasoner) -> dict[str, Any]:
    """Return all_config.yaml as its trainer writes it."""
    c, family = model.config, model.family
    arch = {
        "name": CLASSES[family], "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"},
        "H_cycles": c.H_cycles, "L_cycles": c.L_cycles, "hidden_size": c.hidden_size, "num_heads": c.num_heads,
        "expansion": 4, "pos_encodings": c.positions, "puzzle_emb_ndim": c.prefix_dim, "halt_max_steps": 16,
        "halt_exploration_prob": 0.1,
    }  # fmt: skip
    if family == "urm":
        arch |= {"num_layers": c.layers, "loops": arch.pop("halt_max_steps")}
    else:
        arch |= {"L_layers": c.layers, "H_layers": getattr(c, "H_layers", 0)}
    if family in ("trm", "eqr"):
        arch |= {"mlp_t": c.mixer == "mlp", "puzzle_emb_len": c.prefix_len, "forward_dtype": "bfloat16"}
    if family == "eqr":
        arch |= {"lambda_": 0.95, "noise_scale": 0.01, "H_init_std": 1.0, "L_init_std": 1.0}
    return {
        "arch": arch,
        "ema": family != "hrm",
        "lr": 1e-4,
        "global_batch_size": 768,
        "project_name": "public",
    }


def tensors_of(model: Reasoner, prefix: str) -> dict[str, Tensor]:
    """Return the weights under official names, starts and convolutions in bfloat16."""
    half = {n for n in model.state_dict() if n.endswith("_init") or n == "init_hidden" or "dwconv" in n}
    found = {}
    for name, tensor in model.state_dict().items():
        official = NAMES.get(name, name).removeprefix("level.")
        value = tensor[None] if official == "puzzle_emb.weights" else tensor
        found[prefix + official] = value.bfloat16() if name in half else value.clone()
    return found


def write(folder: Path, name: str) -> Path:
    """Write one into a folder of its own, and return its path."""
    public, place = PUBLIC[name], folder / name
    place.mkdir(parents=True, exist_ok=True)
    model = model_of(public)
    tensors, config = tensors_of(model, public.prefix), configuration(model)
    path = place / public.file
    (place / ("all_config.yaml" if public.yaml else "given.yaml")).write_text(yaml.safe_dump(config))
    if public.identifiers > 1:
        table = public.prefix + "puzzle_emb.weights"
        width = tensors.pop(table).shape[1]
        return write_sparse(path, tensors, table, (public.identifiers, width), {0: torch.zeros(width)})
    content: Any = tensors
    if public.family == "eqr":
        shadow = {n: t.clone() for n, t in tensors.items() if not n.endswith("puzzle_emb.weights")}
        content = {
            "step": 50_000,
            "model": tensors,
            "optimizers": [],
            "config": config,
            "ema": {"mu": 0.999, "shadow": shadow},
        }
    elif public.family == "urm":
        content = urm_state(tensors, 50_000)
    torch.save(content, path)
    return path


if __name__ == "__main__":
    for chosen in sys.argv[2:] or PUBLIC:
        written = write(Path(sys.argv[1]), chosen)
        print(f"{written}  {written.stat().st_size:,} bytes")
