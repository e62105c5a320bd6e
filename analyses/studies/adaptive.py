"""What adaptive inference saves: policies chosen on one part of the puzzles and judged on another."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from eqrlab import attractors as at
from eqrlab.analyses.text.format import table, wrapped
from eqrlab.attractors.answers.adaptive import totals
from eqrlab.attractors.results import schema
from eqrlab.attractors.results.interval import Interval

FAMILIES = {
    "one restart, fixed depth": "depth the same for all puzzles",
    "fixed depth and breadth": "all restarts run to the depth, then the majority or the least residual",
    "+ halting": "one restart until its halting head says so",
    "+ settling": "one restart until state and answer rest",
    "+ racing": "restarts one after another, joined on demand or dropped by halving, until enough agree",
}


def candidates(family: str, restarts: int, depth: int, halting: bool = True) -> list[at.Policy]:
    """Return the policies of a family that an ensemble of so many restarts and steps can try out.

    Parameters
    ----------
    family
        Of `FAMILIES`.
    restarts, depth
        Of the ensemble.
    halting
        Whether the system has a halting head.

    Raises
    ------
    ValueError
        For an unknown family.
    """
    depths = sorted(
        {d for d in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128) if d <= depth} | {depth}
    )
    long = [d for d in depths if d >= min(depth, 8)]
    if family == "one restart, fixed depth":
        return [at.Policy(stop="never", depth=d) for d in depths]
    if family == "fixed depth and breadth":
        breadths = [b for b in (2, 3, 4, 8, 16, 32) if b <= restarts] or [1]
        return [
            at.Policy(stop="never", depth=d, restarts=b, select=s)
            for d, b, s in product(depths, breadths, ("majority", "residual"))
        ]
    halts: list[dict[str, Any]] = [{"stop": "halt", "halt_above": h} for h in (0.0, 1.0, 2.0, 3.0, 4.0)]
    settles: list[dict[str, Any]] = [
        {"stop": "settled", "settled_below": s, "window": w}
        for s, w in product((1.0, 0.3, 0.1, 0.03), (1, 2, 4))
    ]
    if family == "+ halting":
        return [at.Policy(depth=d, **rule) for d, rule in product(long, halts)] if halting else []
    if family == "+ settling":
        return [at.Policy(depth=d, **rule) for d, rule in product(long, settles)]
    if family == "+ racing":
        rules = settles
        if halting:
            rules = halts + [
                {"stop": "both", "halt_above": h, "settled_below": s}
                for h, s in product((1.0, 3.0), (0.5, 0.1))
            ]
        score = "halting" if halting else "residual"
        return [
            at.Policy(
                restarts=b, depth=d, schedule=schedule, agree=agree, keep_by=score, select=score, **rule
            )
            for rule, (b, d, schedule), agree in product(rules, schedules(restarts, depth), (1, 2))
        ]
    raise ValueError(f"family {family!r} unknown; choose from {', '.join(FAMILIES)}")


def schedules(restarts: int, depth: int) -> list[tuple[int, int, tuple[tuple[int, int], ...]]]:
    """Return restarts, depth and schedule of races: one after another, joined on demand, and halving brackets."""
    found: list[tuple[int, int, tuple[tuple[int, int], ...]]] = []
    for patience, most in product((4, 5, 6, 8, 12, 16), (2, 4, 8, restarts)):
        if patience <= depth and most <= restarts:
            found.append((most, patience, ((0, 1),)))  # one after another, each given up after so many steps
    few = min(restarts, 8)
    for start in (4, 8):
        if start < depth:  # the others join puzzles that take long, and most of them are dropped soon after
            found.append((few, depth, ((0, 1), (start, few), (start + 4, max(1, few // 4)))))
    found.append((few, depth, at.halving(few, 2)))
    return sorted({entry for entry in found if entry[0] > 1}) or [(1, depth, ())]


def trial(
    ensemble: xr.Dataset, baseline: xr.Dataset | None = None, accuracy: float | None = None
) -> xr.Dataset:
    """Compare families of policies at the accuracy of a baseline, by replay on one ensemble.

    Parameters
    ----------
    ensemble
        From `attractors.sample`, with labels or an oracle.
    baseline
        Ensemble of one run of the same puzzles; None: the first restarts of `ensemble`.
    accuracy
        For which policies are chosen; None: what the baseline reaches at its best depth.

    Returns
    -------
    xarray.Dataset
        Over family: `accuracy`, `mean_nfe`, `mean_latency`, `baseline_nfe`, `ratio`, `difference` with bounds (see
        `attractors.matched_cost`), `exceeds`, and the two policies chosen, as JSON, in the attributes.

    Notes
    -----
    Puzzles are split into two halves, alternately.  On each half, the cheapest policy of every family that is
    accurate enough there is chosen (the most accurate one if none is), and is judged on the other half, so that
    no puzzle takes part in the choice of the policy by which it is judged.
    """
    base = ensemble if baseline is None else baseline
    puzzles = ensemble.sizes["puzzle"]
    require_halves(puzzles)
    halves = [np.arange(start, puzzles, 2) for start in (0, 1)]
    chosen: dict[str, list[at.Policy]] = {}
    rows: list[dict[str, float]] = []
    for family in FAMILIES:
        policies = candidates(
            family, ensemble.sizes["restart"], ensemble.sizes["step"], "halt_logit" in ensemble
        )
        if not policies:
            continue
        correct, nfe, latency = (np.empty(puzzles) for _ in range(3))
        chosen[family] = []
        for here, there in (halves, halves[::-1]):
            best = float(base.isel(puzzle=here).correct.values[:, 0].mean(0).max())
            level = best if accuracy is None else accuracy
            policy, _ = at.best_policy(ensemble.isel(puzzle=here), policies, level)
            played = at.replay(ensemble.isel(puzzle=there), policy, resamples=2)
            correct[there], nfe[there], latency[there] = (
                played[n].values for n in ("correct", "nfe", "latency")
            )
            chosen[family].append(policy)
        rows.append(judged(base, chosen[family], correct, nfe, latency))
    return gathered(list(chosen), rows, {
        **schema.carried(ensemble), "policies": {f: [at_text(p) for p in ps] for f, ps in chosen.items()},
        "baseline": str(base.attrs.get("name", base.attrs.get("family", "unknown"))),
        "baseline_starts": str(base.attrs.get("initial_law", "unknown")),
        "baseline_depth": base.sizes["step"],
    })  # fmt: skip


def require_halves(puzzles: int) -> None:
    """Raise ValueError unless there are puzzles enough to choose policies on one half and judge on the other."""
    if puzzles < 4:
        raise ValueError(f"a trial of policies needs at least 4 puzzles, got {puzzles}")


def judged(
    base: xr.Dataset, policies: list[at.Policy], correct: np.ndarray, nfe: np.ndarray, latency: np.ndarray
) -> dict[str, float]:
    """Return accuracy, cost and cost at matched accuracy of answers to the baseline's puzzles."""
    result = schema.dataset(totals(policies, correct, nfe, latency), {})
    found = at.matched_cost(base, result)
    values = {str(n): float(v) for n, v in result.data_vars.items() if not v.ndim}
    return values | {str(n): float(v) for n, v in found.data_vars.items() if not v.ndim}


def gathered(families: list[str], rows: list[dict[str, float]], attributes: dict[str, Any]) -> xr.Dataset:
    """Return what was found, by family."""
    variables: dict[str, schema.Variable] = {
        name: (("family",), np.array([row[name] for row in rows]), name.replace("_", " ")) for name in rows[0]
    }
    return schema.dataset(variables, attributes, {"family": families})


def at_text(policy: at.Policy) -> str:
    """Return what is particular about a policy, as "halt above 0, 1 x depth 16"."""
    rule = {
        "never": "no stopping",
        "halt": f"halt above {policy.halt_above:g}",
        "settled": f"update below {policy.settled_below:g} for {policy.window}",
        "both": f"halt above {policy.halt_above:g} and update below {policy.settled_below:g}",
        "either": f"halt above {policy.halt_above:g} or update below {policy.settled_below:g}",
    }[policy.stop]
    parts = [rule, f"{policy.restarts} x depth {policy.depth}"]
    if policy.min_steps > 1:
        parts.append(f"at least {policy.min_steps} steps")
    if policy.restarts > 1:
        parts.append(f"widths {json.dumps(policy.schedule)}" if policy.schedule else "all at once")
        parts.append(f"{policy.agree} agree" if policy.agree else f"chosen by {policy.select}")
    return ", ".join(parts)


def trial_lines(found: xr.Dataset) -> list[str]:
    """Return the printed lines of a trial: one row per family, the meaning of the columns, and the policies chosen."""
    baseline = f"one run of {found.attrs['baseline']} ({found.attrs['baseline_starts']})"
    text = (
        f"Policies were chosen on one half of the puzzles and judged on the other. Baseline: {baseline}. Its depth is "
        f"the smallest at which it is as accurate as the policy; + marks policies that it never matches up to depth "
        f"{found.attrs['baseline_depth']}: its best depth is given instead, and the last column says how many points "
        f"it stays behind. Times fewer: outer steps of the baseline over those of the family. Intervals resample "
        f"puzzles."
    )
    lines = ["adaptive inference:", "", *table(trial_rows(found)), "", *wrapped(text), ""]
    for family, policies in json.loads(found.attrs["policies"]).items():
        lines += [f"{family}: {'; '.join(dict.fromkeys(policies))}"]
    return lines


def trial_rows(found: xr.Dataset) -> list[dict[str, str]]:
    """Return one row per family: accuracy, cost, and how many times cheaper than the baseline at the same accuracy."""
    rows = []
    for family in found["family"].values:
        one = found.sel(family=family)
        value = lambda name, one=one: Interval.of(one, name)
        number = lambda name, value=value: "{} [{}, {}]".format(*map(_short, value(name)))
        above = bool(one["exceeds"])
        rows.append(
            {
                "family": str(family),
                "accuracy, %": "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in value("accuracy"))),
                "steps a puzzle": number("mean_nfe"),
                "in sequence": number("mean_latency"),
                "baseline depth": f"{float(one['baseline_nfe']):.0f}" + "+" * above,
                "times fewer": number("ratio"),
                "behind": "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in value("difference")))
                if above
                else "",
            }
        )
    return rows


def _short(value: float) -> str:
    """Return a number with three digits, or whole from a thousand on."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"
