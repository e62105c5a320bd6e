"""Speed of ensembles: restart-steps a second, share of the machine's matrix rate, where time and memory go.

Products are counted by watching what one outer step hands to torch.mm and torch.bmm; the machine's rate is measured on
random matrices of just these shapes, in the same process, alternating with the ensemble.
"""

import json
import resource
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from eqrlab import attractors as at
from eqrlab.core import EqR, EqRConfig, load
from eqrlab.core.models import layers
from eqrlab.core.models import products as multiplying
from eqrlab.datasets import bundled
from tests.benchmarks.ledger import record, spread

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


def sudoku_size():
    torch.manual_seed(0)
    return EqR(
        EqRConfig(
            vocab_size=11, seq_len=81, hidden_size=512, num_heads=8, layers=2, H_cycles=3, L_cycles=6, mixer="mlp"
        )
    ).eval()  # fmt: skip


SIZES = {  # name: (model, puzzles, how many, restarts, depth, rounds)
    "6x6, MLP mixer, hidden 64": (lambda: load("eqr-sudoku6"), "sudoku6", 4, 16, 8, 3),
    "6x6, attention, hidden 64": (lambda: load("eqr-attention-sudoku6"), "sudoku6", 4, 16, 8, 3),
    "9x9 at the paper's size, hidden 512, random weights": (sudoku_size, "sudoku9", 1, 4, 2, 2),
}


class Products(TorchDispatchMode):
    """Counts matrix products by the shapes of their factors."""

    def __init__(self):
        super().__init__()
        self.shapes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            self.shapes[tuple(args[0].shape), tuple(args[1].shape)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def flops(self):
        return sum(count * 2 * torch.Size(a).numel() * b[-1] for (a, b), count in self.shapes.items())

    def seconds(self, dtype, multiply, least=0.02):
        """Return the CPU time in s that the products take on random matrices of their shapes, by `multiply` or bmm."""
        total = 0.0
        for (a, b), count in self.shapes.items():
            left, right = torch.randn(a).to(dtype), torch.randn(*b[:-2], b[-1], b[-2]).to(dtype)
            with torch.no_grad():
                run = partial(torch.bmm, left, right.mT) if len(b) == 3 else partial(multiply, left, right)
                run()
                calls, begin = 0, time.process_time()
                while time.process_time() - begin < least or calls < 3:
                    run()
                    calls += 1
            total += count * (time.process_time() - begin) / calls
        return total


def products_of_a_step(model, z, x):
    """Return the matrix products of an outer step, seen as torch.mm and torch.bmm."""
    own = multiplying.fastest()
    multiplying._fastest = own._replace(onednn=False)
    try:
        with torch.no_grad(), Products() as products:
            model.step(z, x)
    finally:
        multiplying._fastest = own
    return products


def cpu_seconds(run):
    begin = time.process_time()
    run()
    return time.process_time() - begin


@pytest.mark.parametrize("name", SIZES)
def test_ensemble_throughput(name):
    """Record restart-steps a CPU second and the share of the matrix rate; nothing is asserted of the times."""
    make, task, count, restarts, depth, rounds = SIZES[name]
    model, puzzles = make(), bundled(task).take(slice(count))
    model.multiply("fastest")
    rows = count * restarts
    x = model.encode(torch.as_tensor(puzzles.inputs).repeat_interleave(restarts, 0))
    z = model.initial(x, torch.Generator().manual_seed(0))
    products = products_of_a_step(model, z, x)

    def sample(**options):
        return at.sample(
            model, puzzles.inputs, labels=puzzles.labels, restarts=restarts, depth=depth, batch_size=rows, **options
        )  # fmt: skip

    # Evaluations of the map at each dtype: noise-free residuals are in float32, also of bfloat16 states.
    cases = {
        "float32, noise off": ({"noise": 0}, {torch.float32: depth + 1}),
        "float32, noise on": ({}, {torch.float32: 2 * depth}),
        "bfloat16, noise off": (
            {"noise": 0, "dtype": "bfloat16"},
            {torch.float32: depth, torch.bfloat16: depth},
        ),
    }
    spent = {case: [] for case in cases}
    ways = {"torch.mm": F.linear, "own": partial(multiplying.linear, fast=True)}
    rate = {(dtype, way): [] for dtype in (torch.float32, torch.bfloat16) for way in ways}
    sample(noise=0)
    for _ in range(rounds):
        for dtype, way in rate:
            rate[dtype, way].append(products.seconds(dtype, ways[way]))
        for case, (options, _) in cases.items():
            spent[case].append(cpu_seconds(lambda options=options: sample(**options)))
    for case, (_, evaluations) in cases.items():
        needed = {
            way: [sum(k * rate[dtype, way][i] for dtype, k in evaluations.items()) for i in range(rounds)]
            for way in ways
        }
        work = products.flops * sum(evaluations.values())
        record(
            "throughput", f"{name}: {case}",
            puzzles_x_restarts_x_steps=f"{count} x {restarts} x {depth}",
            restart_steps_a_CPU_s=spread([rows * depth / t for t in spent[case]]),
            evaluations=" + ".join(f"{k} {str(d).removeprefix('torch.')}" for d, k in evaluations.items()),
            GFLOP_a_CPU_s=spread([work / t / 1e9 for t in spent[case]]),
            GFLOP_a_CPU_s_of_torch_mm_alone=spread([work / t / 1e9 for t in needed["torch.mm"]]),
            share_of_torch_mm=spread([a / b for a, b in zip(needed["torch.mm"], spent[case], strict=True)]),
            share_of_its_own_products=spread([a / b for a, b in zip(needed["own"], spent[case], strict=True)]),
            rounds=rounds,
        )  # fmt: skip


def test_bfloat16_products_before_and_after():
    """Record an outer step of a bfloat16 state with products in float32 (before) and in bfloat16 (after)."""
    model = sudoku_size()
    x = model.encode(torch.randint(1, 11, (4, 81))).bfloat16()
    z = model.initial(x, torch.Generator().manual_seed(0))
    spent = {False: [], True: []}
    own = multiplying.fastest()
    with torch.no_grad():
        for _ in range(3):
            for native in spent:
                multiplying._fastest = own._replace(bfloat16=native)
                spent[native].append(cpu_seconds(lambda: model.step(z, x)))
    multiplying._fastest = own
    record(
        "before and after", "the processor's own bfloat16 products, 9x9 at the paper's size, 4 rows",
        before_CPU_s=spread(spent[False]), after_CPU_s=spread(spent[True]),
        ratio=spread([a / b for a, b in zip(spent[False], spent[True], strict=True)]), rounds=3,
        note="chosen here" if own.bfloat16 else "not chosen here",
    )  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_fastest_products(name):
    """Record an outer step, and a gradient through one, as the official code multiplies and by the fastest way."""
    make, task, _, _, _, rounds = SIZES[name]
    model = make()
    rows = model.L_level.rows_at_once
    x = model.encode(torch.as_tensor(bundled(task).inputs[:rows])).detach()
    z = model.initial(x, torch.Generator().manual_seed(0))

    def step():
        with torch.no_grad():
            model.step(z, x)

    def gradient():
        model.zero_grad(set_to_none=True)
        model.step(z, x).square().mean().backward()

    for what, run in (("outer step", step), ("gradient through an outer step", gradient)):
        spent = {"official": [], "fastest": []}
        for _ in range(3 * rounds + 1):
            for how in spent:
                model.multiply(how)
                spent[how].append(cpu_seconds(run))
        before, after = (times[1:] for times in spent.values())
        record(
            "before and after", f"{what}, the fastest products, {name}, {rows} rows",
            before_CPU_s=spread(before), after_CPU_s=spread(after),
            ratio=spread([a / b for a, b in zip(before, after, strict=True)]), rounds=3 * rounds,
            note="oneDNN, chosen here" if multiplying.fastest().onednn else "the BLAS, chosen here",
        )  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_compiled_blocks(name):
    """Record what torch.compile of the blocks gains on this device, and what it costs."""
    make, _, _, _, _, rounds = SIZES[name]
    eager, compiled = make(), make()
    for model in (eager, compiled):
        model.multiply("fastest")
    rows = eager.L_level.rows_at_once
    with torch.no_grad():
        x = eager.encode(torch.ones(rows, eager.config.seq_len, dtype=torch.long))
        z = eager.initial(x, torch.Generator().manual_seed(0))
        try:
            compiled.compile()
            cost = cpu_seconds(lambda: compiled.step(z, x))
        except torch._dynamo.exc.TorchDynamoException as error:
            pytest.skip(f"torch.compile does not work here: {str(error).splitlines()[0]}")
        spent = {"eager": [], "compiled": []}
        for _ in range(3 * rounds):
            for side, model in (("eager", eager), ("compiled", compiled)):
                spent[side].append(cpu_seconds(lambda model=model: model.step(z, x)))
        agree = (compiled.step(z, x) - eager.step(z, x)).abs().max().item()
    record(
        "before and after", f"outer step compiled by torch.compile, {name}, {rows} rows",
        before_CPU_s=spread(spent["eager"]), after_CPU_s=spread(spent["compiled"]),
        ratio=spread([a / b for a, b in zip(*spent.values(), strict=True)]), rounds=3 * rounds,
        note=f"compiling took {cost:.1f} s CPU in this process alone; largest difference {agree:.0e}",
    )  # fmt: skip


GROUPS = {  # group: operations
    "matrix products": "mm bmm",
    "silu": "silu",
    "softmax": "_softmax",
    "copies and casts": "copy_ cat",
    "sums, products, norms": "mul mul_ add add_ pow sum mean rsqrt div div_ linalg_vector_norm",
}
PROFILED = {  # name: (model, puzzles, how many, restarts, depth)
    "6x6, MLP mixer, hidden 64": (lambda: load("eqr-sudoku6"), "sudoku6", 48, 16, 4),
    "6x6, attention, hidden 64": (lambda: load("eqr-attention-sudoku6"), "sudoku6", 48, 16, 4),
    "9x9 at the paper's size, hidden 512, random weights": (sudoku_size, "sudoku9", 2, 8, 2),
}
GROUP_OF = {f"aten::{op}": group for group, ops in GROUPS.items() for op in ops.split()}
GROUP_OF["mkldnn::_linear_pointwise"] = "matrix products"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", PROFILED)
def test_profile(name, when):
    """Record where the time of an ensemble goes, by operation, in a process of its own: memory habits last."""
    found = json.loads(
        subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench_speed", name, when],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()[-1]
    )  # fmt: skip
    record("profile", f"{name}: {when}", **found)


def profiled(name, when):
    """Return the columns of one row of the profile."""
    if when == "before":
        layers._CACHE_VALUES = 1 << 62  # all rows of a batch at once, ...
        layers.keep_freed_memory = lambda: None  # ... in memory that the system takes back and gives again
    torch.set_num_threads(1)
    make, task, count, restarts, depth = PROFILED[name]
    model, puzzles = make(), bundled(task).take(slice(count))
    model.multiply("fastest")
    run = lambda: at.sample(
        model,
        puzzles.inputs,
        labels=puzzles.labels,
        restarts=restarts,
        depth=depth,
        noise=0,
        batch_size=count * restarts,
    )
    run()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    spent = sorted(cpu_seconds(run) for _ in range(3))
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / 3
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        begin = time.perf_counter()
        run()
        wall = time.perf_counter() - begin  # the profiler's times are of this kind
    share: Counter = Counter()
    for event in watched.key_averages():
        share[GROUP_OF.get(event.key, "other operations")] += event.self_cpu_time_total / 1e6 / wall
    share["Python and the rest"] = 1 - sum(share.values())
    work = count * restarts * depth
    return {
        "puzzles x restarts x steps": f"{count} x {restarts} x {depth}",
        "restart steps a CPU s": spread([work / t for t in spent]),
        "page faults a restart step": f"{faults / work:.0f}",
        **{
            group: f"{100 * share[group]:.0f} %"
            for group in [*GROUPS, "other operations", "Python and the rest"]
        },
    }


def test_cost_is_proportional_to_puzzles_restarts_and_depth():
    """Record CPU time against P, B and D, each doubled twice."""
    model, puzzles = load("eqr-sudoku6"), bundled("sudoku6")
    model.multiply("fastest")
    sizes = [(4, 8, 8), (8, 8, 8), (16, 8, 8), (4, 16, 8), (4, 32, 8), (4, 8, 16), (4, 8, 32)]
    spent = {size: [] for size in sizes}
    for _ in range(3):
        for p, b, d in sizes:
            given = puzzles.take(slice(p))
            spent[p, b, d].append(
                cpu_seconds(
                    lambda given=given, b=b, d=d: at.sample(
                        model, given.inputs, labels=given.labels, restarts=b, depth=d, noise=0
                    )
                )
            )
    for (p, b, d), times in spent.items():
        record(
            "cost", f"eqr-sudoku6, P = {p}, B = {b}, D = {d}", CPU_s=spread(times),
            ms_an_evaluation=spread([1e3 * t / (p * b * (d + 1)) for t in times]), rounds=3,
        )  # fmt: skip


MEMORY = """
import sys, time, torch
from eqrlab import attractors as at
from eqrlab.core import MapSystem
torch.set_num_threads(1)
half = MapSystem(lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 32), generator=g))
def memory(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) / 1024
at.sample(half, torch.zeros(1, 1, dtype=torch.long), restarts=2, depth=8)
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before, begin = memory("VmRSS"), time.process_time()
ensemble = at.sample(half, torch.zeros(1, 1, dtype=torch.long), restarts=int(sys.argv[1]), depth=8)
print(memory("VmHWM") - before, ensemble.nbytes / 2**20, time.process_time() - begin)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the process table of Linux")
@pytest.mark.parametrize("restarts", [10**3, 10**4, 10**5])
def test_memory_of_an_ensemble(restarts):
    """Record the peak that an ensemble adds, a small map of 32 numbers, depth 8."""
    found = subprocess.run(
        [sys.executable, "-c", MEMORY, str(restarts)], capture_output=True, text=True, check=True
    )
    peak, size, cpu = map(float, found.stdout.split())
    record(
        "memory", f"at.sample, B = {restarts:,}, D = 8, 32 numbers a state",
        peak_MB=f"{peak:.0f}", result_MB=f"{size:.1f}", peak_bytes_a_restart=f"{peak * 2**20 / restarts:.0f}",
        CPU_s=f"{cpu:.2f}",
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(profiled(*sys.argv[1:])))
