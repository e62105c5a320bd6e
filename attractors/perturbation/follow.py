"""Where states lead: orbits of many given states, each followed only until its fate is decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import identifiers_of, require_integers, tokens_of, with_noise
from eqrlab.attractors.ensemble.batches import one_thread_a_batch
from eqrlab.attractors.ensemble.iterate import TRACE_SEED, Sketch, checked, norms
from eqrlab.attractors.ensemble.judge import Judge
from eqrlab.attractors.ensemble.options import check_options
from eqrlab.attractors.ensemble.place import Place
from eqrlab.attractors.ensemble.recipe import FEATURES, TRACE
from eqrlab.attractors.ensemble.runs import Runs, join, runs_of, widened
from eqrlab.attractors.ensemble.states import few_rows
from eqrlab.attractors.fates.fate import CODE, Tolerances, classify, long_run, ring_length
from eqrlab.attractors.fates.history import Arrival, History
from eqrlab.attractors.fates.orbits import outlines
from eqrlab.attractors.fates.records import noise_size
from eqrlab.attractors.landscape.identify import identify
from eqrlab.attractors.results import schema
from eqrlab.core import KeyedNoise, System
from eqrlab.core.models.contract import check_rows, is_known
from eqrlab.core.models.system import dtype_name, take_rows
from eqrlab.core.random import puzzle_keys, restart_keys


@dataclasses.dataclass(frozen=True)
class Ends:
    """The ends of n states; the arrays (n,) have the meaning of the variables of `sample` with the same names.

    Attributes
    ----------
    residual
        Final relative residual.
    error
        Estimated distance from the attractor, relative to the scale.
    answer, code
        (n, L) answer at the end, and (n,) a number that is equal where answers mean the same.
    steps
        Steps taken before the fate was decided.
    dtype, noise
        Of the whole run.
    """

    fate: np.ndarray
    period: np.ndarray
    settling_step: np.ndarray
    answer_settled: np.ndarray
    residual: np.ndarray
    error: np.ndarray
    scale: np.ndarray
    spread: np.ndarray
    sketch: np.ndarray
    orbit: np.ndarray
    answer: np.ndarray
    code: np.ndarray
    steps: np.ndarray
    dtype: str
    noise: float

    def __len__(self) -> int:
        return len(self.fate)

    def take(self, rows: np.ndarray) -> Ends:
        """Return some of the rows."""
        taken: dict[str, Any] = {name: getattr(self, name)[rows] for name in ROW_FIELDS}
        return dataclasses.replace(self, **taken)

    @staticmethod
    def join(parts: list[Ends]) -> Ends:
        """Return the rows of all parts, in order."""
        points = max(p.orbit.shape[1] for p in parts)
        parts = [dataclasses.replace(p, orbit=widened(p.orbit, points, p.orbit.shape[2])) for p in parts]
        joined: dict[str, Any] = {n: np.concatenate([getattr(p, n) for p in parts]) for n in ROW_FIELDS}
        return dataclasses.replace(parts[0], **joined)

    def runs(self, first: int = 0) -> Runs:
        """Return the rows as runs whose attractors `identify` tells; restarts are numbered from `first`."""
        run = ("puzzle", "restart")
        names = ("fate", "period", "settling_step", "scale", "spread")
        steps = self.residual[None, :, None]  # `error` replaces what would be estimated from all steps
        variables: dict[str, schema.Variable] = {
            **{name: (run, getattr(self, name)[None], name) for name in names},
            "residual": ((*run, "step"), steps * self.scale[None, :, None], "residual"),
            "relative_residual": ((*run, "step"), steps, "relative residual"),
            "sketch": ((*run, "feature"), self.sketch[None], "sketch"),
            "answer": ((*run, "token"), self.answer[None], "answer"),
        }
        restart = np.arange(first, first + len(self.fate))
        ensemble = schema.dataset(variables, {"dtype": self.dtype, "noise": self.noise}, {"restart": restart})
        code = self.code.view(np.uint64)
        return dataclasses.replace(runs_of(ensemble)[0], error=self.error, orbit=self.orbit, code=code)


ROW_FIELDS = tuple(f.name for f in dataclasses.fields(Ends) if f.name not in ("dtype", "noise"))


def came_home(runs: Runs, home: Runs) -> np.ndarray:
    """Return which runs ended at the attractor at which the one run of `home` ended."""
    label = identify(join(home, runs)).label
    return (label[1:] == label[0]) & (label[0] >= 0)


class FollowOptions(TypedDict, total=False):
    """Options of a `Follower`; their defaults are those of `sample`, but 0 for the noise."""

    identifiers: Tensor | np.ndarray | None
    seed: int
    noise: float | None
    tolerances: Tolerances | None
    dtype: torch.dtype | str | None
    device: torch.device | str | None
    batch_size: int | None


class Follower:
    """Follows given states of a system's puzzles to their ends.

    Parameters
    ----------
    system, inputs
        The system and its puzzles (P, L).
    depth
        Most outer steps of a state.
    bound
        A state whose norm exceeds this has diverged.
    judge
        Of the puzzles: which cells tell answers apart.
    **options
        See `FollowOptions`; all states of a puzzle meet the same noise, keyed by `seed`.

    Notes
    -----
    A row leaves the batch when its residual is at the numerical floor with a constant answer, when its state returns
    to within that floor (a cycle), when it is not finite or has escaped: what follows is then known.  Rows of the
    batch that stay are compacted.  Memory of a row: a few states, 64 bytes per step (96 in float64), and a sketch for
    each of the last steps (at most 32).
    """

    def __init__(
        self,
        system: System,
        inputs: Tensor | np.ndarray,
        *,
        depth: int,
        bound: float = np.inf,
        judge: Judge | None = None,
        **options: Unpack[FollowOptions],
    ):
        check_options(options, FollowOptions, Follower)
        batch_size = options.get("batch_size")
        require_integers(depth=depth)
        if batch_size is not None:
            require_integers(batch_size=batch_size)
        self.tokens = tokens_of(inputs, "inputs")
        self.system, self.noise = with_noise(system, options.get("noise", 0.0))
        place = Place.of(system, options.get("device"), options.get("dtype"))
        self.device, self.dtype = place.device, place.dtype
        if self.dtype not in (None, torch.float32, torch.float64):
            raise ValueError(f"dtype must be float32 or float64 to follow basins, got {self.dtype}")
        self.depth, self.seed, self.bound = int(depth), int(options.get("seed", 0)), float(bound)
        self.batch_size, self.tolerances = batch_size, options.get("tolerances") or Tolerances()
        self.judge = judge or Judge()
        self.noise_size = 0.0
        self.system = place.bring(self.system)
        self.identifiers = identifiers_of(options.get("identifiers"), len(self.tokens))
        self.x = place.context(self.system, self.tokens, self.identifiers)
        self.keys = puzzle_keys(self.seed, self.tokens, self.identifiers)
        self.evaluations = 0
        self.checked = is_known(self.system)

    def place(self, z: Tensor) -> Tensor:
        """Bring states to the device and precision of the run; half precision becomes float32."""
        low = z.dtype not in (torch.float32, torch.float64)
        return z.to(device=self.device, dtype=self.dtype or (torch.float32 if low else z.dtype))

    def rows_at_once(self, size: int) -> int:
        """Return the rows of a batch for states of `size` numbers."""
        cpu = self.device.type == "cpu"
        return self.batch_size or int(np.clip((2**20 if cpu else 2**25) // max(size, 1), 1, 4096))

    def fix_band(
        self, z: Tensor, puzzle: np.ndarray, judge: Callable[[Ends, np.ndarray], np.ndarray]
    ) -> None:
        """Follow a pilot sample of states and fix its thresholds, so that further rows are judged independently.

        Parameters
        ----------
        judge
            `(ends, puzzle) -> (n,) bool`: correct or not.
        """
        joined = self.measure_noise(z, puzzle)
        ends, threshold = self._ends(joined)
        solved = judge(ends, puzzle)
        threshold = self._ends(joined, solved)[1] if solved.any() else threshold
        self.hold(threshold)

    def measure_noise(self, z: Tensor, puzzle: np.ndarray) -> dict[str, np.ndarray]:
        """Follow a pilot sample of states, hold the size of the noise that it shows, and return its records."""
        parts = self._batches(z, puzzle)
        joined = {
            n: np.concatenate([p[n] for p in parts]) if parts[0][n].ndim else parts[0][n] for n in parts[0]
        }
        if self.noise:
            self.noise_size = noise_size(joined["residual"], joined["update"], joined["size"])
        return joined

    def hold(self, threshold: float) -> None:
        """Fix the relative residual up to which states count as settled, whatever the other rows do."""
        self.tolerances = self.tolerances.pinned(threshold, noise_factor=self.tolerances.noise_factor)

    def __call__(self, z: Tensor, puzzle: np.ndarray) -> Ends:
        """Follow states (n, *state_shape), each of the puzzle (n,) given."""
        return Ends.join([self._ends(part)[0] for part in self._batches(self.place(z), puzzle)])

    def answers(
        self, z: Tensor, puzzle: np.ndarray, near: float, arrival: Arrival | None = None
    ) -> np.ndarray:
        """Return what states (n, *state_shape) decode to at their ends, as codes (n,); see `Ends`.

        Parameters
        ----------
        near
            A state is left where a step moves it by at most this share of its norm and its answer has been constant for
            a quarter of the depth.  One that passes a saddle so closely is taken for one that stays there.
        arrival
            Where a state is left as well, its answer having been constant as long.
        """
        parts = self._batches(self.place(z), puzzle, near, arrival)
        return np.concatenate([part["code"][:, -1] for part in parts])

    def _batches(
        self, z: Tensor, puzzle: np.ndarray, near: float = 0.0, arrival: Arrival | None = None
    ) -> list[dict[str, np.ndarray]]:
        if not self.checked:
            rows = few_rows(z.flatten(1).isfinite().all(1).cpu())
            if len(rows):
                check_rows(
                    self.system, take_rows(self.x, torch.as_tensor(puzzle)[rows].to(self.device)), z[rows]
                )
            self.checked = True
        pieces = torch.split(torch.arange(len(z)), self.rows_at_once(z[0].numel()))
        with one_thread_a_batch(self.device, len(pieces)) as run:
            part = lambda rows: self._orbits(
                z[rows], puzzle[rows.numpy()], near, arrival and arrival.take(rows.numpy())
            )
            parts = list(run(part, pieces))
        self.evaluations += sum(
            int(p["steps"].sum()) * (1 + bool(self.noise)) + len(p["steps"]) for p in parts
        )
        return parts

    def _ends(self, o: dict[str, np.ndarray], solved: np.ndarray | None = None) -> tuple[Ends, float]:
        verdict = classify(
            o["residual"], o["size"], o["code"], np.zeros(len(o["code"]), bool) if solved is None else solved,
            long_run(o["ring"], self.depth, self.tolerances, trace=o["trace"]), epsilon=float(o["epsilon"][0]),
            noise=self.noise_size, tolerances=self.tolerances,
        )  # fmt: skip
        fate = np.where(o["escaped"], CODE["diverged"], verdict.fate).astype(np.int8)
        with np.errstate(invalid="ignore"):
            residual = o["residual"][:, -1] / verdict.scale
        left = residual / (1 - o["rate"])  # what a geometric decay still has to go
        orbit, back = outlines(o["trace"], verdict.period * (fate == CODE["periodic"]))
        error = np.where(fate == CODE["periodic"], back / verdict.scale, left)
        extended = (fate == CODE["recurrent"]) | (bool(self.noise) & (fate != CODE["periodic"]))
        error = np.fmax(np.where(extended, verdict.spread, error), 4 * o["epsilon"])
        return Ends(
            fate, verdict.period, verdict.settling_step, verdict.answer_settled, residual, error, verdict.scale,
            verdict.spread, verdict.sketch, orbit, o["answer"], o["code"][:, -1], o["steps"], o["dtype"].item(),
            self.noise,
        ), verdict.threshold  # fmt: skip

    @torch.no_grad()
    def _orbits(
        self, z: Tensor, puzzle: np.ndarray, near: float, arrival: Arrival | None
    ) -> dict[str, np.ndarray]:
        """Run rows until their fate is decided; histories are continued as a cycle or fixed point goes on."""
        n, depth, k = len(z), self.depth, ring_length(self.depth)
        x = take_rows(self.x, torch.as_tensor(puzzle, device=self.device))
        keys = None
        if self.noise:
            mine = torch.tensor([self.keys[int(p)] for p in puzzle], dtype=torch.int64)
            keys = restart_keys(mine, torch.zeros_like(mine)).to(self.device)
        sketch = Sketch(z[0].numel(), FEATURES, z.dtype, z.device)
        coarse = Sketch(sketch.size, TRACE, z.dtype, z.device, seed=TRACE_SEED)
        kind = np.dtype(np.float64 if z.dtype == torch.float64 else np.float32)
        epsilon = torch.finfo(z.dtype).eps
        h = History(n, depth, k, (sketch.size, coarse.size), kind, epsilon, self.tolerances, near, arrival)
        left = np.arange(n)
        following = self._step(z, x, keys, 1)
        for t in range(1, depth + 1):
            previous, z = z, following
            noiseless = self.system.step(z, x)
            following = noiseless if keys is None else self._step(z, x, keys, t + 1)
            answer = self.system.decode(z, x).cpu().numpy()
            size, residual, update = norms(z, noiseless - z, z - previous)
            lengths = torch.stack((residual, update, size)).cpu().double().numpy()
            short = sketch(z)
            shorts = short.cpu().double().numpy(), coarse(short).cpu().numpy()
            code = self.judge.of(puzzle[left]).codes(answer)
            done = h.see(left, t, answer, code, lengths, *shorts, self.bound, keys is None)
            if done.any() and t < depth:
                stay = torch.as_tensor(np.flatnonzero(~done), device=z.device)
                left = left[~done]
                if not len(left):
                    break
                z, following, x = z[stay], following[stay], take_rows(x, stay)
                keys = None if keys is None else keys[stay]
        return {**h.records(), "dtype": np.array(dtype_name(z.dtype))}

    def _step(self, z: Tensor, x: Any, keys: Tensor | None, t: int) -> Tensor:
        return checked(self.system.step(z, x, None if keys is None else KeyedNoise(keys, t)), z)
