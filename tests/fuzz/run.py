"""Coverage-guided fuzzing of one target with atheris: `python tests/fuzz/run.py TARGET FOLDER SECONDS`.

`make fuzz SECONDS=300` runs every target so long.  Inputs that reach new code stay in FOLDER/TARGET and begin
the next run; an input that escapes is kept as FOLDER/TARGET-crash-*.  Each becomes a file in tests/fuzz/findings and a
fix.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris
import torch  # noqa: F401 - the large libraries first: they are not watched
import xarray  # noqa: F401

READERS = ["eqrlab", "zipfile", "pickletools", "csv", "gzip", "yaml", "json"]  # where coverage is looked for


def main() -> None:
    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    for module in [m for m in sys.modules if m.partition(".")[0] in READERS]:
        del sys.modules[module]  # to be imported again, watched
    with atheris.instrument_imports(include=READERS):
        from tests.fuzz import targets
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(targets.seeds(name)):
        (corpus / f"seed{i}").write_bytes(seed)
    limits = [
        f"-max_total_time={seconds}",
        "-rss_limit_mb=4096",
        "-timeout=30",
        "-max_len=100000",
        "-len_control=0",
    ]
    options = [*limits, "-print_final_stats=1", f"-artifact_prefix={folder}/{name}-", str(corpus)]
    atheris.Setup([sys.argv[0], *options], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
