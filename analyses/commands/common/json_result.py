"""--json of verbs that write an archive: the numbers of their tables as one JSON object instead of text."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from eqrlab import attractors as at

LONGEST = 200  # characters of an attribute that is shown


def prints_json(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the option --json: its texts are left out, and what it found is printed as one JSON object.

    Parameters
    ----------
    verb
        Returns the path of the archive that it wrote, or a dictionary that is printed as it is.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
    @functools.wraps(verb)
    def run(*arguments: Any, as_json: bool, **options: Any) -> None:
        if not as_json:
            verb(*arguments, **options)
            return
        with contextlib.redirect_stdout(io.StringIO()):
            found = verb(*arguments, **options)
        click.echo(json.dumps(found if isinstance(found, dict) else of_archive(found), allow_nan=False))

    return run


def of_archive(path: Path) -> dict[str, Any]:
    """Return what an archive says: each group's short attributes, and the rows of `attractors.summary`."""
    groups = at.read(path)
    return {
        "archive": str(path),
        "results": {name: {"attributes": _short(group.attrs), "rows": records(at.summary(group))}
                    for name, group in groups.items()},
    }  # fmt: skip


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as values of JSON: what is empty or NaN is left out, infinity is the text "inf"."""
    rows = ({str(name): _plain(value) for name, value in row.items()} for row in table.to_dict("records"))
    return [{name: value for name, value in row.items() if value not in ("", None)} for row in rows]


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _short(attributes: dict[str, Any]) -> dict[str, Any]:
    plain = {name: _plain(value) for name, value in attributes.items() if np.ndim(value) == 0}
    return {
        name: value for name, value in plain.items() if not (isinstance(value, str) and len(value) > LONGEST)
    }
