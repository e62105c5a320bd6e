"""Ensembles: what is recorded is right, and does not depend on how it was computed."""

import numpy as np
import pytest
import torch
from scipy import stats

from eqrlab import attractors as at
from eqrlab.attractors.ensemble.iterate import norms
from eqrlab.attractors.results.schema import FATES
from eqrlab.core import EqR, EqRConfig, MapSystem, load
from eqrlab.datasets import bundled
from tests.zoo import contraction, linear, noisy_ar, puzzles, rotor, selector


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    config = EqRConfig(
        vocab_size=6, seq_len=16, hidden_size=16, num_heads=2, mixer="attention", positions="rope2d"
    )
    return EqR(config, "sudoku4").double()


def test_residual_update_and_answers_are_those_of_the_map():
    a = torch.tensor([[0.5, 0.2], [-0.1, 0.3]], dtype=torch.float64)
    ensemble = at.sample(linear(a), puzzles(), restarts=3, depth=5, keep=("trajectory", "final_state"))
    z = torch.tensor(ensemble.trajectory.values[0])
    residual = torch.linalg.vector_norm(z @ a.T - z, dim=-1)
    np.testing.assert_allclose(ensemble.residual[0], residual, rtol=1e-13)
    np.testing.assert_allclose(ensemble["update"][0, :, 1:], residual[:, :-1], rtol=1e-13)
    np.testing.assert_allclose(
        ensemble.relative_residual[0], residual / torch.linalg.vector_norm(z, dim=-1), rtol=1e-13
    )
    np.testing.assert_array_equal(ensemble.answer[0], (z[:, -1] > 0).long() + 1)
    np.testing.assert_array_equal(ensemble.final_state[0], z[:, -1])
    assert ensemble.step.values.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_results_do_not_depend_on_batch_size(small_model, noise):
    inputs = torch.randint(1, 6, (3, 16), generator=torch.Generator().manual_seed(1))
    whole, pieces = (
        at.sample(small_model, inputs, restarts=5, depth=6, noise=noise, batch_size=size, seed=3)
        for size in (15, 4)
    )
    np.testing.assert_allclose(whole.residual, pieces.residual, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(whole.answer, pieces.answer)
    np.testing.assert_allclose(whole.sketch, pieces.sketch, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_puzzle_has_the_same_restarts_alone_in_company_and_in_any_order(small_model, noise):
    inputs = torch.randint(1, 6, (3, 16), generator=torch.Generator().manual_seed(1))
    together = at.sample(small_model, inputs, restarts=4, depth=5, noise=noise)
    alone = at.sample(small_model, inputs[1:2], restarts=4, depth=5, noise=noise)
    turned = at.sample(small_model, inputs.flip(0), restarts=6, depth=5, noise=noise)
    np.testing.assert_allclose(alone.residual[0], together.residual[1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(turned.residual[1, :4], together.residual[1], rtol=1e-9, atol=1e-12)


def test_another_seed_draws_other_restarts(small_model):
    inputs = torch.ones(1, 16, dtype=torch.long)
    first, second = (at.sample(small_model, inputs, restarts=2, depth=2, seed=s) for s in (1, 2))
    assert not np.allclose(first.residual, second.residual)


def test_starts_follow_the_restart_law():
    ensemble = at.sample(MapSystem(lambda z, x: z, lambda x, g: torch.randn((len(x), 4), generator=g)), puzzles(40),
                         restarts=50, depth=1, keep=("final_state",))  # fmt: skip
    starts = ensemble.final_state.values.reshape(-1)
    assert stats.kstest(starts, "norm").pvalue > 1e-3
    assert len(np.unique(starts)) == starts.size


def test_given_starts_are_used():
    start = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ensemble = at.sample(
        contraction(0.5, 4), puzzles(2), restarts=3, depth=1, initial=start, keep=("final_state",)
    )
    np.testing.assert_allclose(ensemble.final_state, 1 + 0.5 * (start - 1), rtol=1e-14)
    assert ensemble.attrs["initial_law"] == "given starts"


def test_noise_is_never_part_of_the_residual():
    rho, sigma = 0.5, 0.1
    ensemble = at.sample(noisy_ar(rho, sigma), puzzles(), restarts=8, depth=40)
    late = slice(20, None)
    spread = sigma / np.sqrt(1 - rho**2) * np.sqrt(400)
    np.testing.assert_allclose(ensemble.residual[0, :, late].mean(), (1 - rho) * spread, rtol=0.02)
    np.testing.assert_allclose(
        ensemble["update"][0, :, late].mean(), sigma * np.sqrt(2 / (1 + rho)) * 20, rtol=0.02
    )
    assert ensemble.attrs["noise"] == sigma
    silent = at.sample(noisy_ar(rho, sigma), puzzles(), restarts=2, depth=60, noise=0)
    assert float(silent.residual[0, :, -1].max()) < 1e-12


def test_noise_of_another_size_can_be_asked_for(small_model):
    inputs = torch.ones(1, 16, dtype=torch.long)
    silent, soft, loud = (
        at.sample(small_model, inputs, restarts=4, depth=1, noise=n, keep=("final_state",))
        for n in (0, 1e-7, 1e-6)
    )
    moved = [float(np.linalg.norm(e.final_state - silent.final_state)) for e in (soft, loud)]
    np.testing.assert_allclose(moved[1] / moved[0], 10, rtol=1e-3)
    assert (
        at.sample(small_model, inputs, restarts=1, depth=1).attrs["noise"] == 0.01
        and loud.attrs["noise"] == 1e-6
    )


def test_half_precision_residuals_are_computed_in_float32():
    torch.manual_seed(0)
    model = EqR(EqRConfig(vocab_size=6, seq_len=16, hidden_size=16, num_heads=2), "sudoku4")
    ensemble = at.sample(model, torch.ones(1, 16, dtype=torch.long), restarts=3, depth=6, noise=0, dtype="bfloat16",
                         keep=("final_state",))  # fmt: skip
    assert ensemble.attrs["dtype"] == "bfloat16" and ensemble.residual.dtype == np.float32
    z = torch.tensor(ensemble.final_state.values[0])
    x = model.encode(torch.ones(3, 16, dtype=torch.long)).bfloat16().float()
    with torch.no_grad():
        expected = torch.linalg.vector_norm((model.step(z, x) - z).flatten(1), dim=1)
    np.testing.assert_allclose(ensemble.residual[0, :, -1], expected, rtol=1e-4)


def test_states_of_half_precision_are_judged_as_such_whether_it_was_asked_for_or_not(tmp_path):
    law = lambda x, g: torch.randn((len(x), 6), generator=g)
    step = lambda z, x: z * 0.5 + 0.3
    given, asked = MapSystem(step, lambda x, g: law(x, g).bfloat16()), MapSystem(step, law)
    own = at.sample(given, puzzles(), restarts=4, depth=32)
    told = at.sample(asked, puzzles(), restarts=4, depth=32, dtype="bfloat16")
    at.export(given, puzzles(), tmp_path / "a.nc", restarts=4, depth=32)
    kept = at.read(tmp_path / "a.nc")["ensemble"]
    for found in (own, told, kept):
        assert found.attrs["dtype"] == "bfloat16" and found.attrs["tolerances"] == told.attrs["tolerances"]
        assert (found.fate == FATES.index("settled")).all()
    longer = at.sample(given, puzzles(), restarts=4, depth=16, keep=("final_state",))
    assert (at.prolong(given, puzzles(), longer, depth=32, which="all").fate == FATES.index("settled")).all()


def test_correctness_comes_from_the_oracle_before_the_labels():
    system, labels = selector([[0.0]]), torch.tensor([[2]])
    plain = at.sample(system, puzzles(), labels=labels, restarts=40, depth=30)
    lenient = at.sample(
        system, puzzles(), labels=labels, restarts=40, depth=30, oracle=lambda i, a: np.ones(len(a), bool)
    )
    assert 0 < float(plain.correct[..., -1].mean()) < 1
    assert bool(lenient.correct.all()) and not bool((lenient.token_accuracy == 1).all())
    assert "correct" not in at.sample(system, puzzles(), restarts=2, depth=2)


def test_ignored_cells_do_not_count():
    system = selector([[5.0, -5.0]])
    ensemble = at.sample(system, puzzles(), labels=torch.tensor([[1, 0]]), restarts=4, depth=20)
    assert bool(ensemble.correct[..., -1].all()) and bool((ensemble.token_accuracy[..., -1] == 1).all())


def test_answer_ids_are_equal_exactly_where_answers_are():
    ensemble = at.sample(selector([[0.0, 0.3, -0.2]]), puzzles(), restarts=60, depth=20)
    answers = ensemble.answer.values[0]
    ids = ensemble.answer_id.values[0, :, -1]
    same = (answers[:, None] == answers[None]).all(-1)
    np.testing.assert_array_equal(same, ids[:, None] == ids[None])


@pytest.mark.parametrize(
    "step", [lambda z, x: z**2, lambda z, x: 10 * z, lambda z, x: 1e40 * z, lambda z, x: z.exp()]
)
def test_runs_that_diverge_are_analysed_without_a_warning(step):
    system = MapSystem(step, lambda x, g: 2 * torch.randn((len(x), 1), generator=g, dtype=torch.float64))
    ensemble = at.sample(system, puzzles(2), labels=torch.full((2, 1), 1), restarts=8, depth=300)
    assert set(np.unique(ensemble.fate)) <= {FATES.index(f) for f in ("settled", "diverged", "nonfinite")}
    for analysis in (at.basins, at.alignment, at.modes, at.outcomes):
        analysis(ensemble)
    at.noop_test(system, puzzles(2), restarts=4, depth=30)


def test_one_bad_row_does_not_spread():
    def step(z, x):
        return torch.where(z.abs() > 2.5, torch.nan, z / 2)

    system = MapSystem(step, lambda x, g: 2 * torch.randn((len(x), 1), generator=g, dtype=torch.float64))
    ensemble = at.sample(system, puzzles(), restarts=60, depth=60)
    assert set(np.unique(ensemble.fate)) == {0, 6}
    assert np.isfinite(ensemble.residual.values[ensemble.fate.values == 0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"restarts": 0}, "restarts must be an integer >= 1, got 0"),
        ({"depth": 0}, "depth must be an integer >= 1, got 0"),
        ({"depth": 1.5}, "depth must be an integer >= 1, got 1.5"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"keep": ("everything",)}, "keep 'everything' unknown"),
        ({"noise": -1.0}, "noise must be >= 0"),
        ({"inputs": torch.zeros(3)}, "inputs must be integer tokens"),
        ({"labels": torch.ones(5, 1, dtype=torch.long)}, "labels must have a row for each"),
        ({"initial": torch.zeros(1, 3, 2)}, "initial must begin with"),
        ({"dtype": "float12"}, "dtype"),
    ],
)
def test_misuse_is_named(change, message):
    arguments = {"inputs": puzzles(2), "restarts": 2, "depth": 3, **change}
    with pytest.raises(ValueError, match=message):
        at.sample(rotor(1.0), arguments.pop("inputs"), **arguments)


def test_a_step_or_decode_of_the_wrong_shape_is_named():
    start = lambda x, g: torch.zeros(len(x), 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="step must return a state of shape"):
        at.sample(MapSystem(lambda z, x: z.sum(1), start), puzzles(), restarts=2, depth=2)
    with pytest.raises(ValueError, match="decode must return integer tokens"):
        at.sample(MapSystem(lambda z, x: z, start, lambda z, x: z), puzzles(), restarts=2, depth=2)


def test_every_variable_is_labelled(small_model):
    everything = ("summary", "path", "final_state", "trajectory")
    inputs, labels = torch.ones(2, 16, dtype=torch.long), torch.full((2, 16), 2)
    ensemble = at.sample(small_model, inputs, labels=labels, restarts=2, depth=3, keep=everything)
    for name, variable in ensemble.data_vars.items():
        assert {"long_name", "units"} <= set(variable.attrs), name
    assert set(ensemble.dims) <= set(ensemble.coords)
    assert ensemble.final_state.dims == ("puzzle", "restart", "state_0", "state_1", "state_2")
    assert ensemble.attrs["family"] == "eqr" and ensemble.attrs["init_std"] == "[1.0, 1.0]"


def test_bfloat16_gives_the_verdict_of_float32_on_a_bundled_model():
    model, data = load("eqr-sudoku6"), bundled("sudoku6").take(slice(8))
    wide, narrow = (
        at.sample(model, data.inputs, labels=data.labels, restarts=8, depth=24, noise=0, dtype=dtype)
        for dtype in ("float32", "bfloat16")
    )
    right, right_narrow = (e.correct.values[:, :, -1] for e in (wide, narrow))
    assert 0.2 < right.mean() < 0.9, "the puzzles must be a mixture"
    assert (right == right_narrow).mean() > 0.95
    assert ((wide.fate == FATES.index("settled")) == (narrow.fate == FATES.index("settled"))).mean() > 0.9
    verdict, verdict_narrow = (at.modes(e) for e in (wide, narrow))
    decided = (verdict.mode != 4).values & (verdict_narrow.mode != 4).values  # 4 is "undecided"
    assert decided.sum() >= 4
    np.testing.assert_array_equal(verdict.mode[decided], verdict_narrow.mode[decided])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("size", "noise"), [(1, 0.0), (4, 0.0), (100, 0.0), (4, 0.01)])
def test_every_precision_gives_fates_for_small_and_large_states_of_an_own_map(dtype, size, noise):
    system = MapSystem(
        lambda z, x, noise=None: torch.tanh(2 * z) + (0.0 if noise is None else noise(z)),
        lambda x, g: torch.randn((len(x), size), generator=g),
        noise_scale=noise,
    )
    keep = ("summary", "path", "final_state", "trajectory")
    ensemble = at.sample(system, puzzles(), restarts=2, depth=64, dtype=dtype, keep=keep)
    assert (ensemble.fate == 0).all() and ensemble.attrs["dtype"] == dtype
    assert np.isfinite(ensemble.sketch_path).all() and at.basins(ensemble).mass.sum() == 1


@pytest.mark.parametrize("size", [2.0**-100, 2.0**-74, 2.0**64, 2.0**118])
def test_norms_in_single_precision_neither_overflow_nor_underflow(size):
    """A map scaled by a power of two does the same at another scale, though squares of its states are out of range."""

    def runs(s):
        law = lambda x, g: s * torch.randn((len(x), 2), generator=g)
        return at.sample(
            MapSystem(lambda z, x: s * torch.tanh(2 * (z / s)), law), puzzles(), restarts=8, depth=64
        )

    far, near = runs(size), runs(1.0)
    for name in ("residual", "update", "scale"):
        np.testing.assert_allclose(far[name] / size, near[name], rtol=1e-5, err_msg=name)
    for name in ("fate", "settling_step"):
        np.testing.assert_array_equal(far[name], near[name], err_msg=name)
    assert int(at.basins(far).attractors[0]) == int(at.basins(near).attractors[0]) == 4


def test_ordinary_norms_are_those_of_torch_to_the_bit_in_any_company():
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    z[3], z[4] = 1e-30 * z[3], 1e30 * z[4]
    found, move = norms(z, 1e-9 * z)
    plain = torch.linalg.vector_norm(z, dim=1)
    assert torch.equal(found[:3], plain[:3]) and torch.equal(
        move[:3], torch.linalg.vector_norm(1e-9 * z, dim=1)[:3]
    )
    np.testing.assert_allclose(found[3:5], np.linalg.norm(z[3:5].double(), axis=1), rtol=1e-6)
