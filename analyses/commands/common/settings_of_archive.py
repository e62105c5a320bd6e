"""Repeating a run from the settings recorded in an archive or in an unfinished export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from eqrlab.analyses.commands.common.own_system import is_own
from eqrlab.attractors import Tolerances
from eqrlab.core import Reasoner, load
from eqrlab.core.checkpoints.load import bundled
from eqrlab.core.files import sha256
from eqrlab.core.messages import one_line
from eqrlab.core.regular import parse_json

Job = tuple[dict[str, Any], dict[str, Any]]
KEPT = {
    "sketch_path": "path",
    "final_state": "final_state",
    "trajectory": "trajectory",
    "logit_delta": "logit_delta",
}
_OPTIONS = ("config", "settings", "seq_len", "weights", "step")
LAWS = {"restart law of the system": "own", "random_initial": "random"}


def like_archive(tree: xr.DataTree, path: Path) -> Job:
    """Return the arguments of `sample` that made the ensemble of an archive, and its attributes.

    Raises
    ------
    ValueError
        When it has no ensemble, or one from starts that were given.
    """
    if "ensemble" not in tree.children:
        raise ValueError(f"{path}: has no group 'ensemble', so it cannot be repeated")
    ensemble = tree["ensemble"].to_dataset()
    about = dict(ensemble.attrs)
    drawn = about.get("initial_law", "how is not recorded")
    law = LAWS.get(drawn)
    if law is None:
        raise ValueError(one_line(f"{path}: its starts were given ({drawn}), so it cannot be repeated", 1000))
    batch = {"batch_size": int(about["batch_size"])} if "batch_size" in about else {}
    return {
        "inputs": ensemble.inputs.values.astype(np.int64),
        "labels": ensemble.labels.values.astype(np.int64) if "labels" in ensemble else None,
        "identifiers": ensemble.identifier.values if "identifier" in ensemble else None,
        "restarts": ensemble.sizes["restart"],
        "first_restart": int(ensemble.restart[0]),
        "depth": ensemble.sizes["step"],
        "seed": int(about["seed"]),
        "noise": float(about["noise"]),
        "keep": ("summary", *[keep for name, keep in KEPT.items() if name in ensemble]),
        "dtype": str(about["dtype"]),
        "device": str(about["device"]),
        "tolerances": tolerances_of(json.loads(about["tolerances"]), path),
        "starts": law,
        "judged": about["oracle"] not in ("labels", "none"),
        **batch,
    }, about


def tolerances_of(values: dict[str, Any], path: Path) -> Tolerances:
    """Return the thresholds that a file records, those left out that were measured.

    Raises
    ------
    ValueError
        For unknown names, and values that are not finite numbers.
    """
    given = {k: v for k, v in values.items() if k not in ("answer_window", "settled_below")}
    known = {field.name for field in dataclasses.fields(Tolerances)}
    for name, value in given.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
        if name not in known or not number:
            what = f"{path}: tolerance {name[:40]!r} of {str(value)[:40]} unknown; finite numbers are, for "
            raise ValueError(one_line(what + ", ".join(sorted(known)), 1000))
    return Tolerances(**given)


def like_plan(plan: dict[str, Any], tokens: dict[str, np.ndarray]) -> Job:
    """Return the arguments of an unfinished export, and the attributes that name their origin."""
    same = ("restarts", "first_restart", "depth", "seed", "noise", "device")
    return {
        "inputs": tokens["inputs"],
        "labels": tokens.get("labels"),
        "identifiers": tokens.get("identifiers"),
        **{name: plan[name] for name in same},
        "keep": ("summary", *plan["keep"]),
        "dtype": None if plan["dtype"] == "own" else plan["dtype"],
        "tolerances": Tolerances(**plan["tolerances"]),
        "batch_size": None if plan["automatic"] else plan["batch_size"],
        "starts": "random" if plan["starts"] == "random_initial" else "own",
        "judged": plan["oracle"] not in ("labels", "none"),
    }, {**plan["attributes"], "checkpoint_sha256": plan["checkpoint_sha256"]}


def same_model(about: dict[str, Any]) -> tuple[Reasoner, str]:
    """Load the model that these attributes name, and return where from.

    Raises
    ------
    ValueError
        When it is not to be found, is another file now, or is a Python file, which an archive cannot ask to run.
    """
    wanted, name = about.get("checkpoint_sha256", "none"), about.get("checkpoint_source")
    if name is None:
        found = [known for known, path in bundled().items() if sha256(path) == wanted]
        if not found:
            raise ValueError(
                f"the checkpoint {about.get('checkpoint', 'none')} (SHA-256 {wanted[:16]}) is not a bundled "
                "one: give it as CKPT"
            )
        name = found[0]
    if is_own(str(name)):  # to run a Python file, somebody has to ask for it
        raise ValueError(
            one_line(
                f"the runs are of {name}, a Python file, which is executed only if you name it: give it as CKPT"
            )
        )
    try:
        options = parse_json(about.get("checkpoint_options", "{}"), "checkpoint_options")
        model = load(name, **{k: v for k, v in options.items() if k in _OPTIONS})
    except (TypeError, AttributeError):  # values of other kinds than the options have
        raise ValueError(f"{name}: the recorded checkpoint_options do not fit it; give it as CKPT") from None
    if model.provenance["checkpoint_sha256"] != wanted:
        found_not = f"{name}: is not the file that was run (SHA-256 {wanted[:16]}); give that as CKPT"
        raise ValueError(one_line(found_not))
    if about.get("products") != "BLAS":  # what continues runs multiplies as they did
        model.multiply("fastest")
    return model, str(name)
