"""Races of the local analyses against their peers: both sides interleaved in one process, ratio of medians.

Peers are imported where they are installed and skipped where not:
`pip install torchdeq lyapax "jax[cpu]"`; fixed-point-finder is no package: put a clone of
https://github.com/mattgolub/fixed-point-finder on PYTHONPATH.
"""

import contextlib
import importlib
import io
import os
import statistics
import time

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from eqrlab import attractors as at
from eqrlab.attractors.jacobian import Jacobian
from eqrlab.core import EqR, EqRConfig, MapSystem

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


def peer(name, install):
    """Import a peer, or skip with the command that gets it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"needs {name}: {install}")


def race(title, peers, ours, repeats=3, clock=time.process_time):
    """Run both sides in turn and print the ratio of the medians of their times; return it and the last results."""
    spent = {"peer": [], "ours": []}
    results = {}
    for _ in range(repeats):
        for side, run in (("peer", peers), ("ours", ours)):
            begin = clock()
            results[side] = run()
            spent[side].append(clock() - begin)
    medians = {side: statistics.median(times) for side, times in spent.items()}
    ratio = medians["peer"] / medians["ours"]
    kind = "CPU" if clock is time.process_time else "wall"
    threads = torch.get_num_threads()
    print(
        f"\n{title}: peer {medians['peer']:.3f} s, ours {medians['ours']:.3f} s, ratio {ratio:.2f} "
        f"({kind} time, {threads} threads of {os.cpu_count()} cores)"
    )
    return ratio, results["peer"], results["ours"]


def transformer_states(count=32):
    torch.manual_seed(0)
    config = EqRConfig(
        vocab_size=6, seq_len=16, hidden_size=32, num_heads=4, H_cycles=2, L_cycles=2, mixer="attention"
    )
    model = EqR(config)
    inputs = torch.randint(0, 6, (count, 16))
    x = model.encode(inputs).detach()
    z = model.initial(x, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for _ in range(10):
            z = model.step(z, x)
    return model, inputs, z[:, None]


@pytest.mark.parametrize("products", ["jvp", "push"])
def test_spectra_of_many_states_against_a_scipy_loop(products):
    """d = 1024, 6 eigenvalues of 32 states; with "push" SciPy gets our cheaper products: only the method differs."""
    model, inputs, states = transformer_states()
    x = model.encode(inputs).detach()
    count = [0]

    def loop():
        out, count[0] = [], 0
        for i in range(len(inputs)):
            z, row = states[i], x[i : i + 1]
            jacobian = Jacobian(model, row, z)

            def product(v, z=z, row=row, jacobian=jacobian):
                count[0] += 1
                v = torch.as_tensor(v, dtype=torch.float32)
                if products == "push":
                    return jacobian.push(v.view(1, -1)).numpy().ravel()
                with torch.no_grad():
                    return (
                        torch.func.jvp(lambda s: model.step(s, row), (z,), (v.view_as(z),))[1].numpy().ravel()
                    )

            operator = scipy.sparse.linalg.LinearOperator((1024, 1024), matvec=product, dtype=np.float32)
            out.append(scipy.sparse.linalg.eigs(operator, k=6, tol=1e-5, return_eigenvectors=False))
        return out

    ratio, theirs, ours = race(
        f"spectrum, 32 states, d = 1024, SciPy with {products}",
        loop,
        lambda: at.spectrum(model, inputs, states, k=6, tol=1e-5),
    )
    radius = np.array([np.abs(v).max() for v in theirs])
    print(
        f"  products a state: SciPy {count[0] / 32:.0f}, ours {float(ours.products.mean()):.0f} and 6 to certify"
    )
    print(
        f"  largest residual {float(np.nanmax(ours.eigen_residual)):.1e}, all converged {bool(ours.complete.all())}"
    )
    np.testing.assert_allclose(ours.spectral_radius.values[:, 0], radius, rtol=1e-3)
    assert ours.complete.all()
    assert ratio >= (5 if products == "jvp" else 1)


@pytest.mark.parametrize("kind", ["transformer", "random matrix"])
def test_spectral_radius_against_power_iteration(kind):
    torchdeq = peer("torchdeq.loss", "pip install torchdeq")
    if kind == "transformer":
        system, inputs, states = transformer_states(16)
        x = system.encode(inputs).detach()
    else:  # products that cost nothing: only overhead is measured
        generator = torch.Generator().manual_seed(0)
        A = torch.randn(200, 200, generator=generator) / 200**0.5 * 0.9
        system = MapSystem(
            lambda z, x: torch.tanh(z @ A.T), lambda x, g: torch.randn(len(x), 200, generator=g)
        )
        inputs, states = (
            torch.zeros(16, 1, dtype=torch.long),
            0.3 * torch.randn(16, 1, 200, generator=generator),
        )
        x = inputs

    def power():
        z = states[:, 0].clone().requires_grad_()
        return torchdeq.power_method(system.step(z, x), z, n_iters=100)[1].detach()

    options = {"k": 1, "tol": 1e-4}
    ratio, theirs, ours = race(
        f"spectral radius, {kind}", power, lambda: at.spectrum(system, inputs, states, **options)
    )
    exact = torch.linalg.eigvals(Jacobian(system, x, states[:, 0]).dense().double()).abs().amax(1).numpy()
    print(f"  largest error: power method {np.abs(theirs.numpy() - exact).max():.2e}, ours ", end="")
    print(
        f"{np.abs(ours.spectral_radius.values[:, 0] - exact).max():.2e}, {'won' if ratio >= 1 else 'LOST on time'}"
    )
    np.testing.assert_allclose(ours.spectral_radius.values[:, 0], exact, atol=1e-3)


def test_fixed_points_against_fixed_point_finder():
    finder = peer("FixedPointFinderTorch", "git clone https://github.com/mattgolub/fixed-point-finder")
    torch.manual_seed(3)
    rnn = torch.nn.RNN(1, 16, batch_first=True).double()
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(1.6 * torch.randn(16, 16) / 4)
    W, b = rnn.weight_hh_l0.detach(), (rnn.bias_hh_l0 + rnn.bias_ih_l0).detach()
    system = MapSystem(
        lambda z, x: torch.tanh(z @ W.T + b), lambda x, g: torch.randn(len(x), 16, generator=g).double()
    )
    starts = torch.tanh(torch.randn(32, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    inputs = torch.zeros(1, 1, dtype=torch.long)

    def theirs():
        with contextlib.redirect_stdout(io.StringIO()):
            search = finder.FixedPointFinderTorch(
                rnn, dtype="float64", tol_q=1e-12, tol_dq=1e-20, max_iters=5000, do_compute_jacobians=True,
                do_decompose_jacobians=True, do_rerun_q_outliers=False, do_exclude_distance_outliers=False,
            )  # fmt: skip
            return search.find_fixed_points(starts.numpy().copy(), np.zeros((1, 1)))

    def ours():
        return at.fixed_points(system, inputs, starts[None], method="newton", tol=1e-12)

    ratio, (unique, _), found = race(
        "fixed points of a 16-unit RNN, 32 starts", theirs, ours, repeats=1, clock=time.perf_counter
    )
    good = unique.xstar[unique.qstar < 1e-11]
    mine = found.fixed_point.values[0][found.representative.values[0]]
    missing = [min(np.linalg.norm(mine - x, axis=1)) for x in good] if len(mine) else [np.inf]
    print(f"  distinct points: peer {len(good)} (of {len(unique.xstar)} returned), ours {len(mine)}")
    print(f"  largest distance of one of theirs to ours {max(missing, default=0):.1e}")
    assert max(missing, default=0) < 1e-5 and ratio >= 20


def test_one_row_that_never_converges():
    solver = peer("torchdeq.solver", "pip install torchdeq")
    generator = torch.Generator().manual_seed(0)
    starts = torch.randn(100, 2, generator=generator, dtype=torch.float64)
    starts[7] = torch.tensor([6.0, 6.0])
    used = [0]

    def step(z, x=None):  # contracts to (1, 1); rows beyond 5 turn by an irrational angle for ever
        used[0] += len(z)
        turn = torch.stack(
            (z[:, 0] * np.cos(1) - z[:, 1] * np.sin(1), z[:, 0] * np.sin(1) + z[:, 1] * np.cos(1)), 1
        )
        return torch.where(z.norm(dim=1, keepdim=True) > 5, turn, 1 + (z - 1) / 20)

    theirs = solver.get_solver("fixed_point_iter")(step, starts.clone(), max_iter=500, tol=1e-6)[0]
    spent, used[0] = used[0], 0
    system = MapSystem(step, lambda x, g: torch.randn(len(x), 2, generator=g))
    inputs = torch.zeros(1, 1, dtype=torch.long)
    ours = at.fixed_points(system, inputs, starts[None], method="picard", certify=False, tol=1e-6)
    print(
        f"\n100 solves, one stuck: row evaluations torchdeq {spent}, ours {used[0]} (all evaluations counted)"
    )
    rest = [i for i in range(100) if i != 7]
    np.testing.assert_allclose(ours.fixed_point.values[0][rest], theirs[rest], atol=1e-5)
    assert used[0] <= 1000 and int(ours.evaluations.sum()) <= 900


@pytest.mark.parametrize("use", ["as documented", "compiled once"])
def test_lyapunov_exponents_of_a_coupled_map(use):
    """One orbit of a map of a dozen cheap operations: "as documented" JAX compiles in every call, as its users do."""
    jax = peer("jax", 'pip install lyapax "jax[cpu]"')
    lyapax = peer("lyapax", 'pip install lyapax "jax[cpu]"')
    jax.config.update("jax_enable_x64", True)
    d, k, steps = 1000, 5, 1000
    start = torch.rand(d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def lattice(z, roll):
        y = 3.9 * z * (1 - z)
        return 0.8 * y + 0.1 * (roll(y, 1) + roll(y, -1))

    system = MapSystem(
        lambda z, x: lattice(z, lambda y, s: torch.roll(y, s, 1)), lambda x, g: torch.rand(len(x), d)
    )
    inputs = torch.zeros(1, 1, dtype=torch.long)
    begin = jax.numpy.asarray(start.numpy())

    step = lambda z: lattice(z, jax.numpy.roll)
    run = lambda z: lyapax.lyapunov_spectrum(step, z, 1.0, steps, k=k, t_transient=100.0).exponents
    run = jax.jit(run) if use == "compiled once" else run

    def theirs():
        return np.asarray(run(begin))

    def ours():
        return at.lyapunov(system, inputs, start[None, None], k=k, steps=steps, transient=100)

    theirs()  # compiled once
    ratio, a, b = race(f"Lyapunov top 5, d = 1000, JAX {use}", theirs, ours, repeats=3)
    print(f"  peer {np.round(a, 3)}, ours {b.lyapunov_exponent.values.ravel().round(3)}")
    print(f"  {'won' if ratio >= 1 else 'LOST'}")
