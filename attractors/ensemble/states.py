"""States to analyse: given as a tensor or taken from an ensemble, as flat rows with the context of their puzzle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import (
    identifiers_in,
    identifiers_of,
    require_same_puzzles,
    require_states,
    tensor_of,
    tokens_of,
)
from eqrlab.attractors.ensemble.judge import Judge
from eqrlab.attractors.ensemble.place import Place, dtype_of, without_float64
from eqrlab.attractors.fates.fate import LEAST, LEAST_SCALE
from eqrlab.attractors.results import schema
from eqrlab.core import System
from eqrlab.core.models.contract import check_rows, is_known, require_system
from eqrlab.core.models.system import dtype_name, take_rows
from eqrlab.core.random import puzzle_keys, restart_keys

States = Tensor | np.ndarray | xr.Dataset | xr.DataArray


@dataclass(frozen=True)
class Points:
    """Rows to analyse: the point m of puzzle p is row p * points + m.

    Attributes
    ----------
    z
        States (n, *state_shape) in the dtype and on the device of the analysis.
    x
        Context of the puzzles, leading axis P.
    tokens, identifiers
        Inputs (P, L), and their identifiers (P,) or None.
    shape
        (puzzles, points a puzzle).
    present
        (n,) bool; a state that is entirely NaN is a gap: it is left out, and its results are NaN.
    run_size
        (n,) see `run_size`; 0 where no run is known.
    judge
        Judge of the puzzles: the cells by which answers are compared.
    origin
        Attributes of the dataset that the states are taken from.
    """

    system: System
    z: Tensor
    x: Any
    tokens: Tensor
    shape: tuple[int, int]
    present: Tensor
    run_size: Tensor
    identifiers: Tensor | None = None
    judge: Judge = field(default_factory=Judge)
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Numbers d in a state."""
        return self.z[0].numel()

    def require_k(self, k: int) -> None:
        """Raise ValueError if a state has fewer than k directions."""
        if not 1 <= k <= self.size:
            raise ValueError(f"k must be between 1 and the {self.size} numbers of a state, got {k}")

    def require_some(self) -> None:
        """Raise ValueError if all states are gaps."""
        if not self.present.any():
            raise ValueError("all states are NaN; there is nothing to analyse")

    def filled(self) -> Tensor:
        """Return the states with gaps replaced by a present state, whose results are not used.

        Raises
        ------
        ValueError
            When all states are gaps.
        """
        self.require_some()
        here = few_rows(self.present, 1)
        return torch.where(self.present.view(-1, *(1,) * (self.z.ndim - 1)), self.z, self.z[here])

    def context(self, rows: Tensor) -> Any:
        """Return the context of these rows."""
        return take_rows(self.x, rows // self.shape[1])

    def fold(self, values: Tensor | np.ndarray) -> np.ndarray:
        """Return row values (n, ...) as (puzzle, point, ...)."""
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        return array.reshape(*self.shape, *array.shape[1:])

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield the present rows, (m,) with m <= size."""
        rows = self.present.nonzero()[:, 0]
        if len(rows):  # an empty tensor splits into an empty part
            yield from torch.split(rows, max(1, size))

    def keys(self, seed: int) -> list[int]:
        """Return the keys of the randomness of the puzzles."""
        return puzzle_keys(seed, self.tokens, self.identifiers)

    def row_keys(self, seed: int, rows: Tensor) -> Tensor:
        """Return the keys of the noise of these rows (n,), on the device: those of restarts of their puzzles."""
        puzzle, point = rows.cpu() // self.shape[1], rows.cpu() % self.shape[1]
        return restart_keys(torch.tensor(self.keys(seed))[puzzle], point).to(self.z.device)

    def name(self, row: int) -> str:
        """Return which point a row is, as text."""
        return f"puzzle {row // self.shape[1]}, point {row % self.shape[1]}"

    def attributes(self, **parameters: Any) -> dict[str, Any]:
        """Return the attributes of a result: those of its states, of the system and the place, and the parameters.

        The map is that without noise, unless a parameter says otherwise.
        """
        return {
            **self.origin,
            **schema.provenance(self.system),
            "noise": 0.0,
            "dtype": dtype_name(self.z.dtype),
            "device": str(self.z.device),
            **parameters,
        }


def take_points(
    system: System,
    inputs: Tensor | np.ndarray,
    states: States,
    *,
    identifiers: Tensor | np.ndarray | None = None,
    labels: Tensor | np.ndarray | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    finite: bool = True,
) -> Points:
    """Bring states and inputs into rows.

    Parameters
    ----------
    inputs
        Puzzles (P, L), integer tokens.
    states
        (P, M, *state_shape): a tensor, an array, a DataArray, or a Dataset with `final_state` (`at.sample`) or
        `fixed_point` (`at.fixed_points`).
    identifiers
        Of the puzzles, (P,); None: those of the dataset, or none.
    labels
        Labels of the puzzles, (P, L); cells with label 0 are ignored when answers are compared.  None: those by which
        the dataset was judged, or none.
    dtype
        Precision of the analysis; None keeps that of the states, but raises half precision to float32.
    finite
        Refuse states that are partly NaN or infinite.

    Raises
    ------
    ValueError
        For states of the wrong kind, shape or number, of other puzzles or of an unfinished export, states that are not
        finite, and a system that breaks a promise (see `contract.check_system`).
    """
    require_system(system)
    tokens = tokens_of(inputs, "inputs")
    known = identifiers_of(identifiers, len(tokens))
    if known is None and isinstance(states, xr.Dataset) and len(states.puzzle) == len(tokens):
        known = identifiers_in(states)
    z = _state_tensor(states)
    if z.ndim < 3 or not z.is_floating_point() or not z.numel():
        raise ValueError(
            f"states must be a floating tensor (puzzle, point, *state_shape), got {tuple(z.shape)} of {z.dtype}"
        )
    if len(z) != len(tokens):
        raise ValueError(
            f"states have {len(z)} puzzles, inputs {len(tokens)}; give one row of states for each puzzle"
        )
    if isinstance(states, xr.Dataset) and "inputs" in states:
        require_same_puzzles(states, tokens, None)
    precision = dtype_of(dtype) or (z.dtype if z.dtype == torch.float64 else torch.float32)
    if precision not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be float32 or float64 for derivatives, got {precision}")
    where = torch.device(device if device is not None else getattr(system, "device", z.device))
    # Derivatives need sums in float64 in places, whatever the precision of the states.
    place = Place.of(system, torch.device("cpu") if without_float64(where) else where, precision)
    system, shape = place.bring(system), (z.shape[0], z.shape[1])
    z = z.reshape(-1, *z.shape[2:]).to(device=place.device, dtype=precision)
    flat = z.flatten(1)
    if isinstance(states, xr.Dataset):  # a run that left the finite numbers ended at no state
        z[~flat.isfinite().all(1)] = torch.nan
    gap = flat.isnan().all(1)
    points = Points(
        system,
        z,
        place.context(system, tokens, known),
        tokens,
        shape,
        ~gap,
        run_size(tensor_of(states["scale"], "scale").reshape(-1), flat)
        if isinstance(states, xr.Dataset) and "scale" in states
        else torch.zeros(len(z), dtype=torch.float64, device=z.device),
        known,
        _judge_of(labels, states, len(tokens)),
        schema.carried(states) if isinstance(states, xr.Dataset) else {},
    )
    bad = (~flat.isfinite().all(1) & ~gap).nonzero()[:, 0]
    if finite and len(bad):
        raise ValueError(
            f"the state of {points.name(int(bad[0]))} contains NaN or infinity; leave such states out, "
            "or fill them with NaN throughout to mark a gap"
        )
    if not is_known(system):
        _check_contract(points)
    return points


def _judge_of(labels: Tensor | np.ndarray | None, states: States, puzzles: int) -> Judge:
    """Return the judge that tells answers to so many puzzles apart, see `take_points`."""
    if labels is not None:
        known = tokens_of(labels, "labels").numpy()
        if len(known) != puzzles:
            raise ValueError(f"labels must have a row for each of the {puzzles} puzzles, got {len(known)}")
        return Judge(known)
    kept = isinstance(states, xr.Dataset) and len(states.puzzle) == puzzles
    return Judge.of_ensemble(states) if kept else Judge()  # type: ignore[arg-type]


def run_size(scale: Tensor, z: Tensor) -> Tensor:
    """Return the largest norm (n,) of runs that ended at states (n, ...), or that of the state if no more is known.

    The scale of a run is its last norm, but at least a thousandth of its largest: where it is above the norm of the
    state, it tells the largest one.
    """
    norm = z.flatten(1).double().norm(dim=1)
    return torch.where(scale.to(norm) > 1.01 * norm.clamp(min=LEAST), scale.to(norm) / LEAST_SCALE, norm)


def few_rows(usable: Tensor, most: int = 3) -> Tensor:
    """Return up to `most` of the rows that are usable (n,), spread over all of them."""
    rows = usable.nonzero()[:, 0]
    return rows[torch.linspace(0, len(rows) - 1, min(most, len(rows))).long()] if len(rows) else rows


def _check_contract(points: Points) -> None:
    """Check that the system obeys the rules at a few of the states."""
    rows = few_rows(points.z.flatten(1).isfinite().all(1))
    if len(rows):
        check_rows(points.system, points.context(rows), points.z[rows])


def _state_tensor(states: States) -> Tensor:
    if isinstance(states, xr.Dataset):
        require_states(states, "final_state", "fixed_point")
        states = states["final_state" if "final_state" in states else "fixed_point"]
    if isinstance(states, xr.DataArray):
        if "puzzle" not in states.dims or not {"restart", "point"} & set(states.dims):
            raise ValueError(f"states need the dims (puzzle, restart or point, state_*), got {states.dims}")
        second = "restart" if "restart" in states.dims else "point"
        states = states.transpose("puzzle", second, ...).values
    return tensor_of(states, "states")


def state_axes(points: Points) -> tuple[str, ...]:
    """Return the names of the dims of a state."""
    return tuple(f"state_{i}" for i in range(points.z.ndim - 1))


def spread(total: int, values: np.ndarray, rows: Tensor, fill: Any = np.nan) -> np.ndarray:
    """Return values (m, ...) of some rows as (total, ...), the others filled."""
    out = np.full((total, *values.shape[1:]), fill, dtype=values.dtype)
    out[rows.cpu().numpy()] = values
    return out
