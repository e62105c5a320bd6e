"""Official checkpoints: outputs agree with the official code, foreign files are refused, nothing is executed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eqrlab.core import StoredNoise, load

OFFICIAL = {
    "eqr_mlp": "conformance/eqr_mlp/checkpoint/checkpoints/step_2000_refrun01.pth",
    "eqr_prefix_mlp": "conformance/eqr_prefix_mlp/checkpoint/eqr.pth",
}


def golden(shared, name):
    with np.load(shared / "conformance" / name / "golden.npz") as file:
        return {k: torch.from_numpy(file[k]) for k in file.files if file[k].dtype.kind in "fiu"}


def assert_close(got, want, what, perturbed=None):
    """Relative to the largest value 1e-5, or ten times the recorded growth of a relative 1e-6 change of the start."""
    tolerance = 1e-5 * want.abs().max().item()
    if perturbed is not None:
        tolerance = max(tolerance, 10 * perturbed.item())
    assert (got - want).abs().max().item() <= tolerance, what


@pytest.mark.parametrize("prefix", ["", "noisy_"])
@pytest.mark.parametrize("name", OFFICIAL)
def test_states_logits_and_halting_agree_with_the_official_forward_pass(shared, name, prefix):
    want = golden(shared, name)
    if f"{prefix}z_H_1" not in want:
        pytest.skip("no outputs with noise were recorded for this checkpoint")
    model = load(shared / OFFICIAL[name])
    rows = len(want[f"{prefix}z_H_1"])
    x = model.encode(want["inputs"][:rows].long())
    z = torch.stack((want["z_H_0"], want["z_L_0"]), dim=1)[:rows]
    noise = StoredNoise(want["noisy_unit_noise"]) if prefix else None
    compared = 0
    for step in range(1, 17):
        if prefix and step > 4:
            break
        with torch.no_grad():
            z = model.step(z, x, noise)
        if f"{prefix}z_H_{step}" not in want:
            continue
        got = {"z_H": z[:, 0], "z_L": z[:, 1], "logits": model.logits(z, x), "q_halt": model.halt_logit(z, x)}
        for key, value in got.items():
            perturbed = want.get(f"pert1e6_maxabsdiff_{key}_{step}")
            assert_close(value.detach(), want[f"{prefix}{key}_{step}"], f"{key} at step {step}", perturbed)
        compared += 1
    assert compared == (3 if prefix else 4)


def test_every_level_call_of_the_first_step_agrees(shared):
    want = golden(shared, "eqr_mlp")
    model = load(shared / OFFICIAL["eqr_mlp"])
    x = model.encode(want["inputs"][:1].long())
    streams = (want["z_H_0"][:1], want["z_L_0"][:1])
    for level, after in zip(model.schedule, want["trace_L_level_calls_step1_sample0"], strict=True):
        with torch.no_grad():
            streams = model.update(streams, x, level, None)
        assert_close(streams[0 if level == "H" else 1][0], after, f"level call {level}")


def test_answers_of_the_official_evaluator_are_reproduced_at_every_step(shared):
    want = golden(shared, "eqr_mlp")
    model = load(shared / OFFICIAL["eqr_mlp"])
    x = model.encode(want["inputs"].long())
    z = torch.stack((want["z_H_0"], want["z_L_0"]), dim=1)
    for step in range(16):
        with torch.no_grad():
            before, z = z, model.step(z, x)
        assert torch.equal(model.decode(z, x), want["preds_all"][step].long())
        residual = (z - before).flatten(1).norm(dim=1)
        assert torch.allclose(residual, want["residual_per_sample"][step], rtol=1e-3, atol=1e-4)
