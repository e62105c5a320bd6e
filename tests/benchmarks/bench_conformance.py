"""Table of the largest differences from the official forward passes: family x variant x outer step.

Needs the reference files in ../shared.  The tolerances are checked by tests/test_official.py and
tests/test_official_families.py; the files that half match, whose messages are the second table, are theirs.
"""

import copy

import numpy as np
import pytest
import torch

from eqrlab.core import CheckpointError, StoredNoise, load
from tests import test_official, test_official_families
from tests.benchmarks.ledger import record

pytestmark = pytest.mark.benchmark

FILES = {
    "eqr_mlp": "checkpoints/step_2000_refrun01.pth",
    "eqr_prefix_mlp": "eqr.pth",
    "trm_mlp": "step_936",
    "hrm": "step_750",
    "urm": "step_750.pt",
}
VARIANTS = {
    "": "noise off",
    "noisy": "stored noise",
    "randinit": "random start",
    "f32conv": "float32 convolution",
}


def differences(model, want, variant):
    """Yield (outer step, largest difference over largest value of states, logits and halting logits)."""
    prefix = f"{variant}_" if variant else ""
    streams = ["z_H", "z_L"] if model.streams == 2 else ["hidden"]
    if f"{prefix}{streams[0]}_1" not in want:
        return
    start = "randinit_" if variant == "randinit" else ""
    rows = len(want[f"{prefix}{streams[0]}_1"])
    x = model.encode(want["inputs"][:rows].long())
    z = torch.stack([want[f"{start}{k}_0"][:rows] for k in streams], dim=1)
    noise = StoredNoise(want["noisy_unit_noise"]) if variant == "noisy" else None
    if variant == "f32conv":
        model = model.smooth()
    last = max(int(k.rsplit("_", 1)[1]) for k in want if k.startswith(f"{prefix}{streams[0]}_"))
    for step in range(1, last + 1):
        z = model.step(z, x, noise)
        if f"{prefix}{streams[0]}_{step}" not in want:
            continue
        got = {k: z[:, i] for i, k in enumerate(streams)}
        got |= {"logits": model.logits(z, x), "q_halt": model.halt_logit(z, x)}
        wanted = {k: want[f"{prefix}{k}_{step}"] for k in got}
        yield step, max(float((got[k] - w).abs().max() / w.abs().max()) for k, w in wanted.items())


@torch.no_grad()
def test_conformance_table(shared):
    """Record the table; every file and at least one step of each must have been compared."""
    torch.set_num_threads(1)
    compared = set()
    for name, file in FILES.items():
        model = load(shared / "conformance" / name / "checkpoint" / file)
        with np.load(shared / "conformance" / name / "golden.npz") as golden:
            want = {k: torch.from_numpy(golden[k]) for k in golden.files if golden[k].dtype.kind in "fiu"}
        for variant, text in VARIANTS.items():
            found = dict(differences(model, want, variant))
            if found:
                cells = {f"step {s}": f"{found[s]:.1e}" if s in found else "-" for s in (1, 2, 4, 16)}
                record("conformance", f"{name}, {text}", **cells)
                compared.add(name)
    assert compared == set(FILES)


def eqr_files(folder):
    """Yield (what is wrong, path) of EqR training states that half match."""
    for name, (change, _) in test_official.HALF_MATCHING.items():
        content = test_official.training_state(test_official.small_eqr())
        change(content)
        yield f"EqR, {name}", test_official.write(folder, content)


def family_files(folder):
    """Yield (what is wrong, path) of TRM, HRM and URM state dicts that half match."""
    for name, (kind, change, _) in test_official_families.REFUSED.items():
        model = test_official_families.model_of(kind)
        tensors = test_official_families.official_tensors(model)
        config = copy.deepcopy(test_official_families.official_config(model))
        change(tensors, config)
        yield name, test_official_families.write(folder, tensors, config)


def test_messages_of_files_that_half_match(tmp_path):
    """Record what a user reads who gives such a file."""
    for number, files in enumerate((eqr_files, family_files)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, path in files(folder):
            with pytest.raises(CheckpointError) as caught:
                load(path, seq_len=None if number == 0 else 6 if name.startswith(("hrm", "urm")) else None)
            record("half matching", name, answer=str(caught.value).replace(str(folder), "..."))
