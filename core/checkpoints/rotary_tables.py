"""Tables of rotary encodings in files of other code: they must agree with the configuration, and are not kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eqrlab.core.errors import CheckpointError
from eqrlab.core.models.layers import rotary_angles

_CLOSE = 1e-2  # tables may be stored in bfloat16


def require_same_rotary(tables: dict[str, Tensor], values: dict[str, Any], path: Path) -> None:
    """See that stored tables are those that the model computes.

    Parameters
    ----------
    tables
        Names that end in `inv_freq`, `cos...` or `sin...`, and their values.
    values
        Configuration of the model.
    path
        Of the file, for messages.

    Raises
    ------
    CheckpointError
        Naming a table of other frequencies, or of a form that is not known.
    """
    if not tables or values["positions"] == "rope2d" or values["mixer"] == "mlp":
        return  # rows and columns are tabled in many ways, and a token mixer uses no table
    head = values["hidden_size"] // values["num_heads"]
    for name, table in tables.items():
        kind = name.rsplit(".", 1)[-1]
        stored = table.float().reshape(-1, table.shape[-1]) if table.ndim and table.numel() else table.float()
        if kind.startswith(("inv_freq", "freqs")) and stored.numel() == head // 2:
            angles, stored = rotary_angles(torch.ones(1), head, values["rope_theta"]), stored.reshape(1, -1)
        else:
            angles = rotary_angles(
                torch.arange(len(stored) if stored.ndim else 0), head, values["rope_theta"]
            )
            angles = {"c": angles.cos(), "s": angles.sin()}.get(kind[0], angles)
        width = stored.shape[-1] if stored.ndim else 0
        if width not in (head, head // 2):
            raise CheckpointError(
                f"{path}: {name} is a table of rotary angles of shape {tuple(table.shape)}, "
                f"{head} or {head // 2} values a position are expected"
            )
        if not torch.allclose(stored, angles[:, :width], atol=_CLOSE, rtol=_CLOSE):
            raise CheckpointError(
                f"{path}: {name} is a table of other rotary angles than those of rope_theta {values['rope_theta']:g}"
            )
