"""Writes BENCHMARKS.md once benchmarks have run; both sides of a race get one thread."""

import os

import pytest

from tests.benchmarks.ledger import PAGE, STORE, render

os.environ.setdefault(
    "NUMBA_NUM_THREADS", "1"
)  # before numba is imported: its idle workers slow everything else down


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_BEFORE] = STORE.read_bytes() if STORE.exists() else b""


def pytest_sessionfinish(session: pytest.Session) -> None:
    now = STORE.read_bytes() if STORE.exists() else b""
    if now != session.config.stash.get(_BEFORE, now):
        PAGE.write_text(render())


_BEFORE = pytest.StashKey[bytes]()
