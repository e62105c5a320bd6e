"""The targets of `make fuzz` in the suite: their seeds are read, and what a fuzzer once found stays fixed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import targets

FINDINGS = sorted((Path(__file__).parent / "fuzz" / "findings").glob("*-*"))


@pytest.mark.parametrize("name", targets.TARGETS)
def test_targets_accept_their_seeds(name):
    seeds = targets.seeds(name)
    assert seeds and all(isinstance(seed, bytes) for seed in seeds)
    for seed in seeds:
        targets.TARGETS[name](seed)


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_findings_stay_fixed(path):
    targets.TARGETS[path.name.partition("-")[0]](path.read_bytes())


@settings(max_examples=15)
@given(data=st.data())
@pytest.mark.parametrize("name", targets.TARGETS)
def test_seeds_with_a_few_bytes_changed_are_read_or_refused(name, data):
    content = bytearray(data.draw(st.sampled_from(targets.seeds(name))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    targets.TARGETS[name](bytes(content))
