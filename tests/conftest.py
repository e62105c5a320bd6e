"""What every test relies on: one thread, fixed seeds, no window, the reference files."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported; commands that tests start inherit them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pytest
import torch
from hypothesis import settings

from eqrlab.core.interrupts import ASKING

torch.set_num_threads(1)
# A shell that starts the suite in the background lets it, and every process it starts, ignore these signals: the tests
# that send them would wait for ever.
for _number in ASKING:
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

settings.register_profile("eqrlab", deadline=None, derandomize=True, database=None)
settings.load_profile("eqrlab")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Every test starts from the same global random states, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Every test starts with the handlers of signals that the suite began with: the command line sets its own."""
    before = {number: signal.getsignal(number) for number in ASKING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference files (conformance checkpoints, real puzzles) beside the checkout."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the reference files in ../shared, which are not part of the package")
    return folder
