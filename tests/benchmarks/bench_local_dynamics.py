"""Races of spectra and searches against their peers: SciPy, torchdeq, fixed-point-finder.

Times are recorded, never asserted; the answers are.  A peer that is not installed is skipped with how to get it.
"""

import contextlib
import io

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from eqrlab import attractors as at
from eqrlab.attractors.dynamics.jacobian import Jacobian
from eqrlab.core import EqR, EqRConfig, MapSystem
from tests.benchmarks.ledger import peer, race, record

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]
TORCHDEQ = "pip install torchdeq"
FINDER = "git clone https://github.com/mattgolub/fixed-point-finder, and put the clone on PYTHONPATH"


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
        out: list[np.ndarray] = []
        count[0] = 0
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

    title = {"jvp": "forward-mode products", "push": "our products"}[products]
    result = race(
        f"6 eigenvalues of 32 states, d = 1024, {title}",
        "scipy.sparse.linalg.eigs, a loop",
        loop,
        lambda: at.spectrum(model, inputs, states, k=6, tol=1e-5),
        rounds=3,
        target=5 if products == "jvp" else 1,
    )
    ours, radius = result.ours, np.array([np.abs(v).max() for v in result.peer])
    record(
        "answers",
        f"6 eigenvalues of 32 states, d = 1024, {title}",
        peer=f"{count[0] / 32:.0f} products a state",
        ours=f"{float(ours.products.mean()):.0f} products a state, with those that bound the errors",
        exact=f"radii agree to {np.abs(ours.spectral_radius.values[:, 0] - radius).max():.1e}; "
        f"our largest residual {float(np.nanmax(ours.eigen_residual)):.1e}",
    )
    np.testing.assert_allclose(ours.spectral_radius.values[:, 0], radius, rtol=1e-3)
    # What the peer promises; our own flag asks for the error, too.
    assert np.nanmax(ours.eigen_residual) <= 1e-5


@pytest.mark.parametrize("kind", ["transformer", "random matrix"])
def test_spectral_radius_against_power_iteration(kind):
    torchdeq = peer("torchdeq.loss", TORCHDEQ)
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

    name = {
        "transformer": "spectral radius of 16 states, d = 1024",
        "random matrix": "the same, d = 200, free products",
    }
    result = race(
        name[kind],
        "torchdeq power_method, 100 iterations",
        power,
        lambda: at.spectrum(system, inputs, states, k=1, tol=1e-4),
        rounds=5,
        target=1,
    )
    exact = torch.linalg.eigvals(Jacobian(system, x, states[:, 0]).dense().double()).abs().amax(1).numpy()
    found = result.ours.spectral_radius.values[:, 0]
    record(
        "answers",
        name[kind],
        peer=f"error {np.abs(result.peer.numpy() - exact).max():.1e}",
        ours=f"error {np.abs(found - exact).max():.1e}",
        exact="dense Jacobian",
    )
    np.testing.assert_allclose(found, exact, atol=1e-3)


def test_fixed_points_against_fixed_point_finder():
    finder = peer("FixedPointFinderTorch", FINDER)
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

    name = "fixed points of a 16-unit RNN, 32 starts"
    result = race(name, "fixed-point-finder (Torch), tol 1e-12", theirs, ours, rounds=3, target=20)
    (unique, _), found = result.peer, result.ours
    good = unique.xstar[unique.qstar < 1e-11]
    mine = found.fixed_point.values[0][found.representative.values[0]]
    missing = max((min(np.linalg.norm(mine - x, axis=1)) for x in good), default=np.inf)
    record(
        "answers",
        name,
        peer=f"{len(good)} distinct points (of {len(unique.xstar)} returned)",
        ours=f"{len(mine)} distinct points",
        exact=f"each of theirs is within {missing:.1e} of one of ours",
    )
    assert missing < 1e-5


def test_one_row_that_never_converges():
    solver = peer("torchdeq.solver", TORCHDEQ)
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
    record(
        "answers",
        "100 solves, one of which never converges",
        peer=f"torchdeq fixed_point_iter: {spent} row evaluations",
        ours=f"{used[0]} row evaluations, all counted",
        exact="99 equal answers; target <= 900",
    )
    rest = [i for i in range(100) if i != 7]
    np.testing.assert_allclose(ours.fixed_point.values[0][rest], theirs[rest], atol=1e-5)
    assert used[0] <= 900 and spent == 50_000
