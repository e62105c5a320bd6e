"""Where benchmarks write their rows: tables in the terminal, results.json, and the page BENCHMARKS.md made from it."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

os.environ.setdefault(
    "NUMBA_NUM_THREADS", "1"
)  # before numba is imported: its idle workers slow everything else down

ROOT = Path(__file__).resolve().parents[2]
STORE = Path(__file__).with_name("results.json")
PAGE = ROOT / "BENCHMARKS.md"

SECTIONS = {
    "adaptive": (
        "Outer steps at matched accuracy",
        "Adaptive EqR (`at.adaptive`) on the 500 bundled 6x6 test puzzles, its policies chosen on training "
        'puzzles, is compared with one run of the plain TRM from its own start. "TRM depth as accurate" is the '
        'smallest depth at which TRM is as accurate, or, where it never is, its best depth up to 128. "Times '
        'fewer" is that depth over the mean number of steps of EqR. The steps of all restarts count. Intervals of '
        "95 % resample puzzles; the TRM depth is determined anew in each resample.",
        "bench_adaptive.py",
    ),
    "races": (
        "Races",
        "Peer and ours alternate in one process, one thread each, after one untimed run of ours (and of a peer that "
        "compiles); each round gives one ratio peer : ours. The table has the ratio of the medians "
        "and the range over the rounds, of CPU and of wall time; above 1 ours is faster.",
        "bench_local_dynamics.py bench_orbits.py",
    ),
    "answers": (
        "Right where the peer is wrong",
        "The results of both sides of the races, beside the exact values.",
        "bench_local_dynamics.py bench_orbits.py",
    ),
    "intervals": (
        "Coverage of intervals",
        "How often, in per cent, the 95 % interval of a mass, computed from N restarts, contains the true mass p: "
        '20,000 simulated ensembles for each cell. The default method is mid-p. The methods "simultaneous" and '
        '"sequence" are wider: the first holds for several masses at once, the second however often one looks '
        "while sampling.",
        "bench_basins.py",
    ),
    "masses": (
        "Basin masses",
        "How many restarts a precision takes, against a number fixed in advance for the same precision; many and "
        "tiny basins; a smallest shock.",
        "bench_basins.py",
    ),
    "verdicts": (
        "Calibration of verdicts",
        "Verdicts on constructed landscapes whose mode is known, with varied masses, size, depth, restarts, noise "
        "and speed. A verdict is confident if its probability exceeds .95; each confident mistake is listed with "
        "the masses and counts behind it.",
        "bench_calibration.py",
    ),
    "reliability": (
        "Reliability of the probabilities of modes",
        "Each row collects the predictions of about one probability, and says how often the predicted mode was the "
        "true one; landscapes without unfinished runs.",
        "bench_calibration.py",
    ),
    "reliability in waves": (
        "Reliability of the probabilities of modes, drawing until they decide",
        "The same where restarts are drawn in waves until a mode is decided.",
        "bench_calibration.py",
    ),
    "full size": (
        "Full size",
        "Cost of Jacobian products, and leading eigenvalues with their measured residuals ||J v - value v|| / |value|, "
        "the bounds of the spectral radius, and how many values are known to the tolerance, condition counted in.",
        "bench_full_size.py",
    ),
    "public files": (
        "Files of the shapes of the public checkpoints",
        "Random weights in files of exactly the names, shapes and options of public checkpoints: `eqrlab info`, "
        "and `eqrlab diagnose` with one puzzle, 2 restarts, depth 3, no local dynamics and no checks; processor "
        'time and peak memory of the whole process. "Said before" is the cost that the command predicts before it '
        "begins.",
        "bench_public_files.py",
    ),
    "exact values": (
        "Exact values",
        "Systems whose answer is known, in float64: our value, the largest error, and the tolerance it is held to.",
        "bench_ground_truth.py",
    ),
    "failing maps": (
        "Maps that fail",
        "The message that a user reads who passes such a map or state.",
        "bench_ground_truth.py",
    ),
    "faults": (
        "Faults of an export",
        "Which fault was injected, how often and when; what was completed and what was lost; whether the resumed "
        "export equals the uninterrupted one in every byte of every variable. 600 runs of 40 steps in 75 batches, "
        "each batch a part.",
        "bench_export.py",
    ),
    "kills": (
        "Kills of the long verbs",
        "Small `eqrlab` runs are killed at random moments by SIGKILL, SIGTERM, SIGHUP and SIGINT in turn, and "
        "continued with `--resume` (`basins` begins anew). After each kill the files are validated, and what was "
        "complete before must still be there; at the end all values equal those of a run that was not interrupted.",
        "bench_kills.py",
    ),
    "export": (
        "Memory of an export",
        "Peak resident memory of a process that exports or samples the given number of restarts of a map of 32 "
        "numbers, depth 64, 256 rows at once, and how much more an export takes than one of 100 restarts; PyTorch "
        "alone takes about 200 MB.",
        "bench_export.py",
    ),
    "archives": (
        "Archives",
        "Size of an archive, and bytes (before compression) written, validated and read per second of CPU time.",
        "bench_export.py",
    ),
    "ensembles": (
        "Ensembles against the official evaluator",
        "Both sides run the same weights, puzzles, restarts and depth, in alternating rounds on one thread; speeds "
        "are steps of one restart per second of CPU time. The official evaluator iterates with noise and keeps "
        "logits, votes and scores. Ours records noise-free residuals as well, which with noise (or a bfloat16 "
        "state) costs a second evaluation of the map at every step; with sparse residuals at 6 of 8 steps and at "
        '15 of 40, the depth of a diagnosis. The rows "alone" have the matrix products of the steps in float32 and '
        "nothing else, by torch.mm, as the official code computes them, and by the library that is fastest on the "
        "processor, which ours takes (`Reasoner.multiply`). Ratios below 1, where the official code is faster, are "
        "bold. `EQR_OFFICIAL` names a clone of https://github.com/locuslab/EqR; flash_attn is replaced by torch's "
        "attention.",
        "bench_ensemble.py",
    ),
    "retirement": (
        "To the same selected answers, finished rows retired",
        "CPU time until each of 480 test puzzles of 6x6 Sudoku has its one answer, with `eqr-sudoku6`. The "
        "official evaluator runs 16 restarts to depth 16, with noise, and takes the answer of least logit change. "
        "`at.adaptive`, noise off, may use as many restarts and steps, and replaces rows as they finish; its "
        "policies were chosen on training puzzles. Intervals over puzzles.",
        "bench_ensemble.py",
    ),
    "precision": (
        "Verdicts in bfloat16",
        "The same 24 puzzles and starts are diagnosed in float32 and in bfloat16, noise off, and for comparison in "
        "float32 from other starts. The table has the mode of the checkpoint with its probability, the puzzles "
        "with another mode among those decided both times, and the runs that end right minus those of the first "
        "row, with 95 % interval over puzzles.",
        "bench_precision.py",
    ),
    "throughput": (
        "Speed of ensembles",
        "Speeds are steps of one restart per second of CPU time on one core (threads run batches side by side). "
        "The other columns have the matrix products that the evaluations need, divided by the CPU time of the "
        "whole of at.sample, beside torch.mm alone, and beside the products that are taken, at the same shapes and "
        "dtype. The share of torch.mm exceeds 1 where oneDNN is taken instead, and in bfloat16 on a CPU without "
        "bfloat16 instructions, where products are done in float32.",
        "bench_speed.py",
    ),
    "before and after": (
        "What speed-ups give",
        "Two ways of computing one outer step alternate in one process; CPU time, and the ratio before : after.",
        "bench_speed.py",
    ),
    "profile": (
        "Where the time of an ensemble goes",
        "Share of the wall time of at.sample that each operation itself takes, by torch.profiler; float32, noise "
        'off, all rows in one batch, each row of the table in a process of its own. "Before": the blocks take all '
        'rows at once, in memory that the C library gives back after every operation. "After": they take as many '
        "rows as fit into the cache, in memory that is kept.",
        "bench_speed.py",
    ),
    "training": (
        "Training step",
        "One optimiser step (refill, 14 of 21 or 3 of 6 level calls without gradient, backward, AdamATan2, "
        "averages), against the official model, loss head and averages. Both use our optimiser, because the "
        "official one needs CUDA. Ratios below the target are bold.",
        "bench_training.py",
    ),
    "cost": (
        "Cost against puzzles, restarts and depth",
        "CPU time of at.sample, noise off. An evaluation is one outer step of one restart; each restart takes D + "
        "1 of them.",
        "bench_speed.py",
    ),
    "memory": (
        "Memory against restarts",
        "Peak memory that at.sample adds to the process. It keeps all results in memory; the streamed export keeps "
        "them on disk.",
        "bench_speed.py",
    ),
    "conformance": (
        "Conformance with the official code",
        "Largest absolute difference from the official forward pass, divided by the largest absolute value, over "
        "states, logits and halting logits after 1, 2, 4 and 16 outer steps, in float32.",
        "bench_conformance.py",
    ),
    "half matching": (
        "Checkpoints that half match",
        "The message that a user reads whose file lacks a tensor, has one too many, or lies beside another "
        "configuration.",
        "bench_conformance.py",
    ),
}


class Race(NamedTuple):
    """What `race` measured: ratio of the medians of CPU times, and the last answers."""

    ratio: float
    peer: Any
    ours: Any


def peer(name: str, how: str) -> ModuleType:
    """Import a peer, or skip with the one line that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"needs {name}: {how}")


NARROW = ("avx512_bf16", "amx_bf16", "bf16")  # as Linux calls the instructions


def machine() -> str:
    """Name the processor or GPU, and what the processor has for bfloat16."""
    if torch.cuda.is_available():
        return f"{os.cpu_count()} cores {torch.cuda.get_device_name()}"
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    about = {key.strip(): value.strip() for key, value in lines.items()}
    flags = about.get("flags", about.get("Features", "")).split()
    has = [name for name in NARROW if name in flags]
    narrow = ", ".join(has) or "no bfloat16 instructions"
    return f"{os.cpu_count()} cores {about.get('model name', 'CPU')}" + (f" ({narrow})" if flags else "")


def record(section: str, name: str, **columns: Any) -> None:
    """Store and print one row; a later row of the same name replaces it."""
    row = {key.replace("_", " "): str(value) for key, value in columns.items()}
    print(f"\n{name}: " + "; ".join(f"{key} {value}" for key, value in row.items()))
    rows = json.loads(STORE.read_text()) if STORE.exists() else {}
    rows.setdefault(section, {})[name] = {
        **row,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "machine": f"{machine()}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}",
    }
    STORE.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(render(rows))


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return median and range as text."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def race(
    name: str,
    against: str,
    peer_runs: Callable[[], Any],
    ours_runs: Callable[[], Any],
    rounds: int,
    target: float,
) -> Race:
    """Run both sides in turn and record the ratio of the medians of their times.

    Nothing is asserted of the times: a race that misses its target is named in the table.
    """
    spent: dict[str, list[tuple[float, float]]] = {"peer": [], "ours": []}
    answers: dict[str, Any] = {}
    ours_runs()
    for _ in range(rounds):
        for side, run in (("peer", peer_runs), ("ours", ours_runs)):
            cpu, wall = time.process_time(), time.perf_counter()
            answers[side] = run()
            spent[side].append((time.process_time() - cpu, time.perf_counter() - wall))
    columns = {"peer": against}
    ratios = []
    for i, clock in enumerate(("CPU", "wall")):
        theirs, mine = ([times[i] for times in spent[side]] for side in ("peer", "ours"))
        each = [a / b for a, b in zip(theirs, mine, strict=True)]
        ratios.append(statistics.median(theirs) / statistics.median(mine))
        columns[f"{clock} s, peer : ours"] = (
            f"{statistics.median(theirs):.3g} : {statistics.median(mine):.3g}"
        )
        columns[f"{clock} ratio"] = f"{ratios[-1]:.3g} [{min(each):.3g}, {max(each):.3g}]"
    verdict = "**lost**" if ratios[0] < 1 else "won" if ratios[0] >= target else "won, below the target"
    record("races", name, **columns, rounds=rounds, target=f">= {target:g}", outcome=verdict)
    return Race(ratios[0], answers["peer"], answers["ours"])


def render(rows: dict[str, dict[str, dict[str, str]]]) -> str:
    """Return the page made from all rows, by section and name."""
    out = [
        "# Benchmarks",
        "",
        "`make bench` runs all benchmarks and writes this page. The command above each table runs that one alone; the "
        "date, the torch version and the machine are below it. Where a peer is not installed, its row stays as it was. "
        "Times are in seconds; CPU time is given beside wall time because the machine also did other work.",
        "",
    ]
    lost = [name for name, row in rows.get("races", {}).items() if "lost" in row["outcome"]]
    missed = [name for name, row in rows.get("races", {}).items() if "below" in row["outcome"]]
    out += [
        f"Races lost: {'; '.join(lost) or 'none'}. Won, but below their target: {'; '.join(missed) or 'none'}.",
        "",
    ]
    for section, (title, text, files) in SECTIONS.items():
        if section not in rows:
            continue
        paths = " ".join(f"tests/benchmarks/{f}" for f in files.split())
        out += [f"## {title}", "", text, "", f"`pytest -m benchmark {paths} -s`", ""]
        out += [*_table(rows[section]), ""]
    return "\n".join(out)


def _table(rows: dict[str, dict[str, str]]) -> list[str]:
    """Return a Markdown table; what is the same in all rows stands below it once."""
    same = {
        key: next(iter(rows.values()))[key]
        for key in ("date", "torch", "machine")
        if len({row[key] for row in rows.values()}) == 1
    }
    heads = list(dict.fromkeys(key for row in rows.values() for key in row if key not in same))
    lines = ["| | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 1)]
    for name, row in rows.items():
        cells = [name, *(_told(row, key) for key in heads)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    if same:
        lines += ["", "All rows: " + ", ".join(f"{key} {value}" for key, value in same.items()) + "."]
    return lines


def _told(row: dict[str, str], key: str) -> str:
    """Return a cell, bold where it is the ratio of a race against the official code that missed its target, else 1."""
    cell = row.get(key, "")
    ratio = key.startswith("over the official") or (key == "ratio" and "target" in row)
    target = float(row["target"].removeprefix(">= ")) if "target" in row else 1.0
    return f"**{cell}**" if ratio and cell and float(cell.split()[0]) < target else cell
