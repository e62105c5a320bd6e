"""Calibration of the verdicts on planted landscapes of known mode; `docs/figures.py` draws the curve."""

import os

import numpy as np
import pytest

from eqrlab.attractors.landscape.modes import ModeRule
from tests.benchmarks.ledger import record
from tests.landscapes import calibration_table, near_threshold, run_landscapes

pytestmark = pytest.mark.benchmark
LANDSCAPES = int(os.environ.get("LANDSCAPES", 1000))  # of each kind
EDGES = np.array([0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99, 1.001])


def report(title, rows):
    """Print how often verdicts are given and right, and every confident wrong one; return those."""
    sure, right = rows["probability"][:, :4], rows["mode"] == rows["truth"]
    given, open_ = rows["mode"] < 4, rows["counts"][:, 3] > 0
    confident = sure.max(1) > 0.95
    wrong = confident & (sure.argmax(1) != rows["truth"])
    print(
        f"\n{title}: {len(given)} landscapes, decided {given.mean():.1%} (without unfinished runs "
        f"{given[~open_].mean():.1%}, with {given[open_].mean():.1%}), right where decided {right[given].mean():.2%}, "
        f"confident {confident.sum()}, of these wrong {wrong.sum()}"
    )
    for name, values in (
        ("restarts", rows["restarts"]),
        ("depth", rows["depth"]),
        ("size", rows["size"]),
        ("noise", rows["noise"]),
    ):
        parts = [
            f"{v:g}: {given[values == v].mean():.0%} decided, {right[given & (values == v)].mean():.1%} right"
            for v in np.unique(values)
        ]
        print(f"  {name:9s}" + "; ".join(parts))
    for i in np.flatnonzero(wrong):
        mass, q, counts = rows["correct"][i], rows["q"][i], rows["counts"][i].astype(int).tolist()
        print(f"  wrong: truth {'abcd'[rows['truth'][i]]}, said {'abcd'[sure[i].argmax()]} with {sure[i].max():.3f}; "
              f"correct mass {mass:.3f}, q {q:.3f}; runs right, wrong, none, open {counts}")  # fmt: skip
    record(
        "verdicts", title, landscapes=len(given), decided=f"{given.mean():.1%}",
        **{"right where decided": f"{right[given].mean():.2%}", "confident": int(confident.sum()),
           "confident and wrong": f"{wrong.sum()}" + "".join(f"; {_told(rows, i)}" for i in np.flatnonzero(wrong))},
    )  # fmt: skip
    return wrong


def _told(rows, i):
    """Say what a confidently wrong verdict rested on."""
    sure, counts = rows["probability"][i, :4], rows["counts"][i].astype(int).tolist()
    return (
        f"{'abcd'[rows['truth'][i]]} called {'abcd'[sure.argmax()]} ({sure.max():.3f}): correct mass "
        f"{rows['correct'][i]:.3f}, q {rows['q'][i]:.3f}, runs right, wrong, none, open {counts}"
    )


def test_calibration_on_landscapes_drawn_from_the_prior():
    """Predicted probabilities match frequencies, and every confident mistake is chance."""
    rule = ModeRule()
    rows = run_landscapes(LANDSCAPES, seed=1, rule=rule)
    wrong = report("masses from the prior", rows)
    assert near_threshold(rows["correct"], rows["q"], rows["restarts"], rule)[wrong].all()
    finished = rows["counts"][:, 3] == 0
    table = calibration_table({n: v[finished] for n, v in rows.items()}, EDGES)
    print("  predicted  frequency  predictions (landscapes without unfinished runs)")
    for predicted, seen, number in table:
        print(f"  {predicted:9.3f}  {seen:9.3f}  {number}")
        record("reliability", f"{predicted:.3f}", **{"true in": f"{seen:.3f}", "predictions": number})
        assert abs(predicted - seen) < 4 * np.sqrt(max(predicted * (1 - predicted), 1e-3) / number)


def test_calibration_where_restarts_stop_with_the_verdict():
    """Predicted probabilities match frequencies too when drawing stops as soon as a mode is decided."""
    rule = ModeRule()
    rows = run_landscapes(LANDSCAPES, seed=1, rule=rule, waves=True)
    report("masses from the prior, in waves until decided", rows)
    finished = rows["counts"][:, 3] == 0
    given = (rows["mode"] < 4) & finished
    right = (rows["mode"] == rows["truth"])[given]
    stated = rows["probability"][given, :4].max(1)
    saved = rows["drawn"].sum() / rows["restarts"].sum()
    print(
        f"  restarts drawn: {saved:.1%} of all; decided {given.sum()}, "
        f"right {right.mean():.2%}, stated {stated.mean():.2%}"
    )
    assert abs(right.mean() - stated.mean()) < 4 * np.sqrt(stated.mean() * (1 - stated.mean()) / given.sum())
    for predicted, seen, number in calibration_table({n: v[finished] for n, v in rows.items()}, EDGES):
        record(
            "reliability in waves", f"{predicted:.3f}", **{"true in": f"{seen:.3f}", "predictions": number}
        )
        assert abs(predicted - seen) < 4 * np.sqrt(max(predicted * (1 - predicted), 1e-3) / number)
    confident = rows["probability"][:, :4].max(1) > 0.95
    wrong = (confident & (rows["probability"][:, :4].argmax(1) != rows["truth"])).sum()
    nominal = (1 - rows["probability"][confident, :4].max(1)).sum()
    print(f"  confident {confident.sum()}, wrong {wrong}, nominal {nominal:.1f}")
    assert wrong <= nominal + 3 * np.sqrt(nominal)


def test_no_confident_mistake_on_clear_landscapes():
    """Where chance does not carry the masses over a threshold none is confidently wrong."""
    assert not report("clear masses", run_landscapes(LANDSCAPES, seed=2, rule=ModeRule(), clear=True)).any()


def test_no_confident_mistake_where_attractors_move():
    """Two thirds of the attractors are cycles and chaotic sets: the verdicts are those of points."""
    rows = run_landscapes(LANDSCAPES, seed=3, rule=ModeRule(), clear=True, moving=True, unfinished=0)
    assert not report("clear masses, cycles and chaotic sets", rows).any()
