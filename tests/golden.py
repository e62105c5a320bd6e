"""Hashes of every analysis on small systems and one bundled model: what a change of structure must leave as it is.

`python tests/golden.py record FILE` writes them, `python tests/golden.py compare OLD NEW` names what differs.  Hashes
are of stored values to the last bit, so both files must come from one machine and one version of torch.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parent))

import zoo

from eqrlab import attractors as at
from eqrlab.core import MapSystem, load
from eqrlab.datasets import bundled

VOLATILE = {"created", "history", "source", "device", "command"}  # tell when and by what, not what


def hashes(dataset: xr.Dataset) -> dict[str, str]:
    """Hash of each variable with its dims, and of the attributes together."""
    found = {}
    for name, variable in dataset.variables.items():
        values = variable.values
        text = values.dtype.kind in "OU"
        raw = (
            "\0".join(map(str, values.reshape(-1))).encode()
            if text
            else np.ascontiguousarray(values).tobytes()
        )
        head = f"{variable.dims}{values.dtype}{values.shape}".encode()
        found[str(name)] = hashlib.sha256(head + raw).hexdigest()[:16]
    kept = {k: str(v) for k, v in sorted(dataset.attrs.items()) if k not in VOLATILE}
    found["(attributes)"] = hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]
    return found


def systems() -> dict[str, tuple[MapSystem, torch.Tensor, torch.Tensor]]:
    """Systems of the zoo, with inputs and labels."""
    mixed = zoo.selector([[-2.5], [0.0], [0.4]])
    wide = zoo.selector([[-0.5, 0.3], [0.0, 0.0]])
    return {
        "selector": (mixed, zoo.puzzles(3), torch.full((3, 1), 2)),
        "selector2": (wide, zoo.puzzles(2), torch.full((2, 2), 2)),
        "logistic cycle": (zoo.logistic(3.2), zoo.puzzles(1), torch.ones(1, 1, dtype=torch.long)),
        "rotor": (zoo.rotor(2.0), zoo.puzzles(1), torch.full((1, 1), 2)),
        "narrow": (zoo.narrow_in_sea(1.5), zoo.puzzles(1), torch.full((1, 2), 3)[:, :2]),
        "henon": (zoo.henon(), zoo.puzzles(1), torch.zeros(1, 1, dtype=torch.long)),
        "noisy": (zoo.noisy_ar(0.5, 0.01, 20), zoo.puzzles(1), torch.zeros(1, 1, dtype=torch.long)),
        "slow": (zoo.contraction(0.999), zoo.puzzles(1), torch.full((1, 1), 2)),
    }


def of_ensembles() -> Iterator[tuple[str, Callable[[], xr.Dataset]]]:
    """What starts with `sample`."""
    for name, (system, inputs, labels) in systems().items():
        labelled = labels if name not in ("narrow", "henon", "noisy") else None
        sampled = at.sample(
            system, inputs, labels=labelled, restarts=48, depth=64, seed=3, keep=("summary", "final_state")
        )
        yield f"sample {name}", lambda e=sampled: e
        yield f"basins {name}", lambda e=sampled: at.basins(e)
        if labelled is None:
            continue
        yield f"modes {name}", lambda e=sampled: at.modes(e)
        yield f"alignment {name}", lambda e=sampled: at.alignment(e, resamples=50)
        yield f"scaling {name}", lambda e=sampled: at.scaling(e, resamples=50)
        yield f"outcomes {name}", lambda e=sampled: at.outcomes(e, resamples=50)
        yield (
            f"prolong {name}",
            lambda s=system, i=inputs, e=sampled: at.prolong(s, i, e, depth=128),
        )


def of_maps() -> Iterator[tuple[str, Callable[[], xr.Dataset]]]:
    """What works on states or draws its own runs."""
    system, inputs, labels = systems()["selector2"]
    ensemble = at.sample(system, inputs, labels=labels, restarts=6, depth=64, keep=("summary", "final_state"))
    hidden = zoo.hidden_selector(100, torch.linspace(-0.6, 0.6, 98, dtype=torch.float64))
    normal = zoo.linear(zoo.rotation_blocks([0.6 + 0.5j, 0.3, -0.7]))
    starts = torch.linspace(-1, 1, 2 * 3 * 2, dtype=torch.float64).reshape(2, 3, 2)
    wide = torch.randn((1, 2, 100), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one = zoo.puzzles(1)
    logistic = {r: zoo.logistic(r) for r in (2.5, 2.6, 2.7)}
    yield "estimate_basins", lambda: at.estimate_basins(system, inputs, labels=labels, half_width=0.1)
    yield "plane", lambda: at.plane(system, inputs[:1], labels=labels[:1], resolution=15)
    yield "fixed_points", lambda: at.fixed_points(system, inputs, starts)
    yield "fixed_points wide", lambda: at.fixed_points(hidden, one, wide)
    yield "spectrum", lambda: at.spectrum(normal, one, torch.zeros(1, 1, 4, dtype=torch.float64), k=3)
    yield "spectrum wide", lambda: at.spectrum(hidden, one, wide, k=4)
    yield "singular_values", lambda: at.singular_values(hidden, one, wide, k=3)
    yield "ftle", lambda: at.ftle(hidden, one, wide, steps=4, k=2)
    yield "ftle_field", lambda: at.ftle_field(system, inputs[:1], resolution=7)
    yield (
        "lyapunov",
        lambda: at.lyapunov(zoo.henon(), one, torch.full((1, 1, 2), 0.1).double(), k=2, steps=200),
    )
    yield "continuation", lambda: at.continuation(logistic, one, restarts=12, depth=128)
    yield (
        "adaptive",
        lambda: at.adaptive(system, inputs, at.Policy(stop="settled"), labels=labels, resamples=50),
    )
    yield "critical_shock", lambda: at.critical_shock(system, inputs, ensemble, random=2)
    yield "basin_stability", lambda: at.basin_stability(system, inputs, ensemble, trials=4, sizes=(0.1, 1.0))
    yield "return_test", lambda: at.return_test(system, inputs, ensemble)
    yield "noop_test", lambda: at.noop_test(system, inputs)
    yield "shells", lambda: at.shells(system, inputs, labels=labels, restarts=8)
    yield (
        "transitions",
        lambda: at.transitions(
            zoo.noisy_ar(0.5, 0.01, 4),
            one,
            at.sample(
                zoo.noisy_ar(0.5, 0.01, 4), one, restarts=8, noise=0.0, keep=("summary", "final_state")
            ),
            noises=(0.01,),
            trials=8,
        ),
    )
    yield "endings", lambda: at.endings(system, inputs, ensemble)
    yield (
        "trajectory_exponents",
        lambda: at.trajectory_exponents(system, inputs, labels=labels, restarts=4, depth=32, resamples=50),
    )
    yield (
        "asymptotic_alignment",
        lambda: at.asymptotic_alignment(system, inputs, ensemble, labels=labels, resamples=50),
    )


def of_a_model() -> Iterator[tuple[str, Callable[[], xr.Dataset]]]:
    """A bundled model, with and without noise, and an export of it."""
    model, puzzles = load("eqr-sudoku6"), bundled("sudoku6").take(slice(3))
    for noise in (None, 0.0):
        ensemble = at.sample(
            model,
            puzzles.inputs,
            labels=puzzles.labels,
            restarts=6,
            depth=16,
            seed=5,
            noise=noise,
            keep=("summary", "final_state"),
        )
        yield f"sample model {noise}", lambda e=ensemble: e
        yield f"basins model {noise}", lambda e=ensemble: at.basins(e)
        yield f"modes model {noise}", lambda e=ensemble: at.modes(e)
        yield f"alignment model {noise}", lambda e=ensemble: at.alignment(e, resamples=50)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.nc"
        at.export(model, puzzles.inputs, path, labels=puzzles.labels, restarts=6, depth=8, batch_size=4)
        with at.open_ensemble(path) as written:
            yield "export model", lambda: written.load()


def record(path: str) -> None:
    """Write the hashes of all analyses to a JSON file."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, str]] = {
        "made on": {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
    }
    for source in (of_ensembles, of_maps, of_a_model):
        for name, analysis in source():
            try:
                found[name] = hashes(analysis())
            except ValueError as refusal:
                found[name] = {"refused": str(refusal)}
            print(name, "refused: " + found[name]["refused"] if "refused" in found[name] else "", flush=True)
    Path(path).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def compare(old: str, new: str) -> int:
    """Print every difference of two files of hashes; return how many analyses differ."""
    before, after = (json.loads(Path(p).read_text()) for p in (old, new))
    differing = 0
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name, {}), after.get(name, {})
        changed = sorted(k for k in a.keys() & b.keys() if a[k] != b[k])
        gone, come = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
        if changed or gone or come:
            differing += name != "made on"
            print(
                name,
                *(
                    f"{word}: {', '.join(v)}"
                    for word, v in (("changed", changed), ("gone", gone), ("new", come))
                    if v
                ),
                sep="; ",
            )
    print(f"{differing} of {len(before) - 1} analyses differ")
    return differing


if __name__ == "__main__":
    if sys.argv[1:2] == ["record"] and len(sys.argv) == 3:
        record(sys.argv[2])
    elif sys.argv[1:2] == ["compare"] and len(sys.argv) == 4:
        sys.exit(bool(compare(*sys.argv[2:])))
    else:
        sys.exit(__doc__)
