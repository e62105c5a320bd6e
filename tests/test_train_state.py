"""States of training runs: what is refused, and that runs go on from them."""

from __future__ import annotations

import pytest

from eqrlab.core.checkpoints.tensors import write_tensors
from eqrlab.core.errors import CheckpointError
from eqrlab.core.training.state import pack
from tests.test_train import same, trainer, weights


def moved(moves=13, **changes):
    t = trainer(**changes)
    for _ in range(moves):
        t.step()
    return t


def test_a_state_that_is_taken_up_twice_gives_the_same_run(tmp_path):
    moved(9).save_state(tmp_path / "state")
    runs = [trainer(), trainer()]
    for t in runs:
        t.load_state(tmp_path / "state")
        for _ in range(5):
            t.step()
    assert same(weights(runs[0]), weights(runs[1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "cuda"}, "was saved on cuda, and continues only on such a device, not on cpu"),
        (
            {"compact": True},
            "holds a rounded state of an earlier version, which is no longer read: start anew",
        ),
        ({"training_state": 1}, "version 1, and version 2 is required"),
    ],
)
def test_states_of_other_devices_and_versions_are_refused(changes, message, tmp_path):
    tensors, header = pack(moved(2))
    write_tensors(tmp_path / "state", tensors, {**header, **changes})
    with pytest.raises(CheckpointError, match=message):
        trainer().load_state(tmp_path / "state")


def test_states_of_other_runs_or_without_a_part_are_refused(tmp_path):
    path = tmp_path / "state"
    tensors, header = pack(moved(2))
    write_tensors(path, tensors, header)
    with pytest.raises(CheckpointError, match=r"train.seed 0 there, 1 here"):
        trainer(seed=1).load_state(path)
    for missing in ("ema.q_head.bias", "exp_avg.q_head.bias", "stream.order", "generator", "rows.z"):
        write_tensors(path, {k: v for k, v in tensors.items() if k != missing}, header)
        with pytest.raises(CheckpointError, match=r"lacks|is missing|is damaged|has no valid rows"):
            trainer().load_state(path)
