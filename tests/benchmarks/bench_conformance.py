"""Table of the largest differences from the official forward passes: family x variant x outer step.

`pytest -m benchmark tests/benchmarks/bench_conformance.py -s` prints it; needs the reference files in ../shared.
The tolerances are checked by tests/test_official.py and tests/test_official_families.py.
"""

import numpy as np
import pytest
import torch

from eqrlab.core import StoredNoise, load

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
    """Print the table; every file and at least one step of each must have been compared."""
    print(f"\n{'file':16}{'variant':22}" + "".join(f"{f'step {s}':>10}" for s in (1, 2, 4, 16)))
    compared = set()
    for name, file in FILES.items():
        model = load(shared / "conformance" / name / "checkpoint" / file)
        with np.load(shared / "conformance" / name / "golden.npz") as golden:
            want = {k: torch.from_numpy(golden[k]) for k in golden.files if golden[k].dtype.kind in "fiu"}
        for variant, text in VARIANTS.items():
            found = dict(differences(model, want, variant))
            if found:
                cells = [f"{found[s]:.1e}" if s in found else "-" for s in (1, 2, 4, 16)]
                print(f"{name:16}{text:22}" + "".join(f"{cell:>10}" for cell in cells))
                compared.add(name)
    print("largest |difference| / largest |value| of states, logits and halting logits; one thread, float32")
    assert compared == set(FILES)
