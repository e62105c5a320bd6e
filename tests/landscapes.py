"""Planted landscapes of known mode, varied in mass, dimension, depth, restarts, noise and speed, and their verdicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from scipy.stats import norm
from torch import Tensor

from eqrlab import attractors as at
from eqrlab.attractors.landscape.mode_rule import ModeRule
from eqrlab.attractors.results.drawn import drawn_of
from eqrlab.core import MapSystem

FAR = 9.0  # beyond any start
COUNTS = ("correct", "spurious", "unsettled", "unfinished")
RESTARTS, DEPTHS, SIZES, NOISES = (16, 32, 64, 128), (16, 32, 64, 128), (2, 8, 64), (0.0, 0.002)


def draw_masses(
    rng: np.random.Generator, count: int, rule: ModeRule
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw modes (count,), correct masses and spurious shares of the failures, as the rule's prior says."""
    truth = rng.choice(4, count, p=rule.prior)
    log_uniform = np.exp(rng.uniform(np.log(rule.least), np.log(rule.broad), count))
    narrow = np.where(rng.random(count) < rule.narrow, log_uniform, rng.uniform(0, rule.broad, count))
    correct = np.select([truth == 0, truth == 3], [0.0, rng.uniform(rule.broad, 1, count)], narrow)
    high, low = rng.uniform(rule.elsewhere, 1, count), rng.uniform(0, rule.elsewhere, count)
    return truth, correct, np.select([truth == 1, truth == 2], [high, low], rng.random(count))


@dataclass(frozen=True)
class Planted:
    """Landscapes (count,) of one system: masses of correct and spurious attractors, factor of decay a step, size.

    `kind` (count, 3) says what the right attractor and the two wrong ones are: 0 a point, 1 a cycle, 2 a chaotic set.
    """

    truth: np.ndarray
    correct: np.ndarray
    spurious: np.ndarray
    rate: np.ndarray
    size: int
    noise: float
    kind: np.ndarray | None = None

    def system(self) -> MapSystem:
        """One coordinate keeps the side: from the top the right attractor, two wrong ones, and a sea.

        At attractors all coordinates contract; in the sea each follows a chaotic logistic map, and so does the answer.
        """
        top = norm.isf(np.clip(self.correct, 0, 1)).clip(-FAR, FAR)
        bottom = norm.isf(np.clip(self.correct + self.spurious, 0, 1)).clip(-FAR, FAR)
        middle = norm.isf(np.clip(self.correct + self.spurious / 2, 0, 1)).clip(-FAR, FAR)
        edges = np.stack([np.full_like(top, FAR), top, middle, bottom], 1)
        low, high = np.stack([top, middle, bottom], 1), edges[:, :3]
        centres = np.select(
            [(low <= -FAR + 1) & (high >= FAR - 1), low <= -FAR + 1, high >= FAR - 1],
            [0 * low, high - 1, low + 1],
            (low + high) / 2,
        )
        kind = np.zeros_like(centres) if self.kind is None else self.kind
        table = torch.as_tensor(np.concatenate([edges[:, 1:], centres, self.rate[:, None], kind], 1))

        def step(z: Tensor, x: Tensor, noise=None) -> Tensor:
            y, u = z[:, :1], z[:, 1:]
            side = (y <= x[:, :3]).sum(1, keepdim=True)  # 0: right, 1 and 2: wrong, 3: sea
            at_one = side.clamp(max=2)
            centre, rate, kind = (
                torch.gather(x[:, 3:6], 1, at_one),
                x[:, 6:7],
                torch.gather(x[:, 7:], 1, at_one),
            )
            inside = u.clamp(0, 1)
            still = side < 3
            y = torch.where(still, centre + rate * (y - centre), y)
            moving = (inside * (1 - inside))[:, :1] * torch.where(kind == 1, 3.2, 3.9)
            rest = torch.where(kind > 0, moving, 0.3 + rate * (u - 0.3))
            u = torch.where(still, rest, 3.99 * inside * (1 - inside))
            following = torch.cat((y, u), 1)
            return following if noise is None else following + noise(following) * still

        def start(x: Tensor, generator: torch.Generator) -> Tensor:
            y = torch.randn((len(x), 1), generator=generator, dtype=torch.float64)
            return torch.cat(
                (y, torch.rand((len(x), self.size - 1), generator=generator, dtype=torch.float64)), 1
            )

        def decode(z: Tensor, x: Tensor) -> Tensor:
            side = (z[:, :1] <= x[:, :3]).sum(1, keepdim=True)
            return torch.where(side < 3, 2 + side, 8 + (z[:, 1:2] > 0.5).long())

        return MapSystem(step, start, decode, lambda tokens: table[tokens[:, 0]], self.noise)

    def sample(self, restarts: int, depth: int, seed: int, rule: ModeRule | None = None) -> xr.Dataset:
        """Run all landscapes, with a rule in waves until it decides.

        Nothing decodes to the label of mode (a) because its correct mass is 0.
        """
        inputs = torch.arange(len(self.truth))[:, None]
        labels = torch.full((len(self.truth), 1), 2)
        keep = ("summary", "final_state")
        if rule is not None:
            run = at.Run.of(
                self.system(), inputs, labels=labels, restarts=restarts, depth=depth, seed=seed, keep=keep
            )
            return at.sample_until_decided(run, rule=rule)
        return at.sample(
            self.system(), inputs, labels=labels, restarts=restarts, depth=depth, seed=seed, keep=keep
        )


def near_threshold(correct: np.ndarray, q: np.ndarray, restarts: np.ndarray, rule: ModeRule) -> np.ndarray:
    """Say where chance alone may put the counts beyond a threshold of the rule.

    The masses are next to `broad` or `elsewhere`, or, with a chance of 1 in 100, no run is right or all are.
    """
    inside = (correct > 0) & (correct < rule.broad)
    none, every = (1 - correct) ** restarts > 0.01, correct**restarts > 0.01
    beside = (np.abs(correct - rule.broad) < 0.06) | (inside & (np.abs(q - rule.elsewhere) < 0.15))
    return beside | (inside & (none | every))


def run_landscapes(
    count: int,
    seed: int,
    rule: ModeRule,
    each: int = 10,
    unfinished: float = 0.15,
    clear: bool = False,
    moving: bool = False,
    waves: bool = False,
) -> dict[str, np.ndarray]:
    """Diagnose `count` landscapes, `each` a system, and return truth, probabilities and what was varied, row by row.

    Masses follow the rule's prior; with `clear` those near a threshold are left out.  With `moving` two thirds of the
    attractors are cycles and chaotic sets, all of the answer that is theirs; the depth lets these be seen.
    With `waves` restarts are drawn until the mode is decided; `drawn` tells how many.
    """
    rng, rows = np.random.default_rng(seed), []
    for group in range(-(-count // each)):
        restarts, depth = int(rng.choice(RESTARTS)), int(rng.choice((128, 256) if moving else DEPTHS))
        truth, correct, q = draw_masses(rng, 20 * each, rule)
        beside = near_threshold(correct, q, np.full(len(q), restarts), rule)
        kept = np.flatnonzero(~(beside & clear))[:each]
        truth, correct, q = truth[kept], correct[kept], q[kept]
        slow = rng.random() < unfinished
        rate = 1 - 10 ** rng.uniform(-4, -2.3, each) if slow else rng.uniform(0.05, 0.75, each)
        size, noise = int(rng.choice(SIZES)), float(rng.choice(NOISES))
        kind = rng.integers(0, 3, (each, 3)) if moving else None
        noise = 0.0 if moving else noise
        planted = Planted(truth, correct, (1 - correct) * q, rate, size, noise, kind)
        ensemble = planted.sample(restarts, depth, seed + group, rule if waves else None)
        result = at.modes(ensemble, rule=rule)
        columns = {
            "truth": truth, "correct": correct, "q": q, "rate": rate, "probability": result.mode_probability.values,
            "mode": result["mode"].values, "restarts_needed": result.restarts_needed.values,
            "counts": np.stack([result[f"count_{n}"].values for n in COUNTS], 1),
        }  # fmt: skip
        if waves:
            columns["drawn"] = drawn_of(ensemble).sum(1)
        same = {"restarts": restarts, "depth": depth, "size": size, "noise": noise, "slow": slow}
        rows.append({**columns, **{k: np.full(each, v) for k, v in same.items()}})
    return {name: np.concatenate([r[name] for r in rows])[:count] for name in rows[0]}


def calibration_table(rows: dict[str, np.ndarray], edges: np.ndarray) -> list[tuple[float, float, int]]:
    """Return mean prediction, frequency and number of predictions (landscape, mode) in bins of the probability."""
    predicted = rows["probability"][:, :4].ravel()
    happened = (rows["truth"][:, None] == np.arange(4)).ravel()
    place = np.digitize(predicted, edges[1:-1])
    return [
        (predicted[place == i].mean(), happened[place == i].mean(), int((place == i).sum()))
        for i in range(len(edges) - 1)
        if (place == i).any()
    ]
