"""The look of progress bars: on a terminal and in Jupyter, after one second, with the remaining time."""

from __future__ import annotations

import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Jupyter without ipywidgets, which then has no bars
    from tqdm.auto import tqdm

__all__ = ["shown", "tqdm"]

DELAY = 1.0  # seconds after which a bar appears: what is done by then needs none


def shown(progress: object) -> dict[str, Any]:
    """Return the options of `tqdm` for an argument `progress`: only True shows a bar.

    Notes
    -----
    `disable=None` leaves the bar out where the output is a file; in Jupyter it is shown.
    """
    return {"disable": None if progress is True else True, "leave": False, "delay": DELAY}
