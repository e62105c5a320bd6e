"""Every system keeps the contract: `step` is a pure, differentiable map of independent rows, in their dtype."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.func import jacrev, jvp, vjp

from eqrlab.core import EqRConfig, KeyedNoise, MapSystem
from eqrlab.core.models.system import cast_floating, take_rows
from tests.core_models import small_eqr, tokens
from tests.family_models import ROUGH, SMOOTH, small_model

# torch.func.jvp loads decompositions that torch itself still writes with torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

MODELS = {
    f"{mixer}-{positions}{'-prefix' if prefix else ''}": {
        "mixer": mixer,
        "positions": positions,
        "prefix_len": 2 if prefix else 0,
        "prefix_dim": 20 if prefix else 0,
    }
    for mixer in ("mlp", "attention")
    for positions in ("none", "rope", "rope2d", "learned")
    for prefix in (False, True)
    if not (prefix and positions == "rope2d") and not (mixer == "mlp" and positions.startswith("rope"))
}
MODELS["attention-rope2d-boxes"] = {
    "mixer": "attention",
    "positions": "rope2d",
    "seq_len": 16,
    "board": (4, 4),
    "box": (2, 2),
}
MODELS["attention-two-layers"] = {
    "mixer": "attention",
    "positions": "rope",
    "layers": 2,
    "H_cycles": 1,
    "L_cycles": 3,
}


def tanh_map() -> MapSystem:
    def step(z, x, noise=None):
        z = torch.tanh(1.5 * z + 0.1 * x[:, :1])
        return z if noise is None else z + noise(z)

    return MapSystem(step, lambda x, g: torch.randn((len(x), 3), generator=g).to(x), noise_scale=0.1)


def system_and_context(name, dtype=torch.float64, n=5):
    """Return a system, a context and states of n rows in one dtype."""
    if name == "map":
        system = tanh_map()
        x, start = system.encode(torch.arange(2 * n).view(n, 2)), system.initial
    else:
        system = small_eqr(**MODELS[name]) if name in MODELS else small_model(name)
        x, start = system.encode(tokens(n, system)).detach(), system.random_initial
    x = cast_floating(x, dtype, None)
    return system, x, start(x, torch.Generator().manual_seed(3)).to(dtype)


SMOOTH_MODELS = [*MODELS, *(name for name in SMOOTH if name != "eqr")]
ALL_MODELS = [*SMOOTH_MODELS, *ROUGH]
systems = pytest.mark.parametrize("name", [*ALL_MODELS, "map"])


@systems
def test_step_changes_nothing_and_repeats_exactly(name):
    system, x, z = system_and_context(name)
    x_before, z_before = x.clone(), z.clone()
    state = torch.get_rng_state()
    keys = torch.arange(5)
    plain = [system.step(z, x) for _ in range(2)]
    noisy = [system.step(z, x, KeyedNoise(keys, 0)) for _ in range(2)]
    if name != "map":
        system.train()
        assert torch.equal(system.step(z, x), plain[0]), "the step depends on train() and eval()"
    assert torch.equal(*plain) and torch.equal(*noisy) and not torch.equal(plain[0], noisy[0])
    assert torch.equal(x, x_before) and torch.equal(z, z_before)
    assert torch.equal(torch.get_rng_state(), state)


@systems
def test_rows_do_not_see_each_other(name):
    system, x, z = system_and_context(name)
    keys = torch.arange(5) * 7919
    together, noisy = system.step(z, x), system.step(z, x, KeyedNoise(keys, 2))
    for row in range(5):
        one = slice(row, row + 1)
        alone = system.step(z[one], take_rows(x, one))
        assert torch.allclose(alone, together[one], rtol=0, atol=1e-13)
        alone = system.step(z[one], take_rows(x, one), KeyedNoise(keys[one], 2))
        assert torch.allclose(alone, noisy[one], rtol=0, atol=1e-13)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(system.step(z[order], take_rows(x, order)), together[order], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", [*SMOOTH_MODELS, "map"])
def test_forward_mode_reverse_mode_and_differences_agree(name):
    system, x, z = system_and_context(name, n=2)
    f = lambda z: system.step(z, x)
    v, u = torch.randn_like(z), torch.randn_like(z)
    value, forward = jvp(f, (z,), (v,))
    assert torch.allclose(value, f(z), rtol=0, atol=1e-13)
    h = 1e-5
    central = (8 * (f(z + h * v) - f(z - h * v)) - (f(z + 2 * h * v) - f(z - 2 * h * v))) / (12 * h)
    (backward,) = vjp(f, z)[1](u)
    if name.startswith("feedforward"):
        norms = [part.norm().item() for part in (central, forward, backward)]
        assert norms == [0, 0, 0], "the map must not depend on the state"
        return
    assert (forward - central).norm() <= 1e-9 * forward.norm()
    assert abs((u * forward).sum() - (backward * v).sum()) <= 1e-11 * (u.norm() * forward.norm())
    assert forward.norm() > 1e-3 and backward.norm() > 1e-3, "a derivative is cut off"


@pytest.mark.parametrize("name", ["mlp-none", "attention-rope2d", "map"])
def test_the_whole_jacobian_is_block_diagonal_over_rows(name):
    system, x, z = system_and_context(name, n=2)
    jacobian = jacrev(lambda z: system.step(z, x))(z).reshape(2, z[0].numel(), 2, z[0].numel())
    assert jacobian[0, :, 1].abs().max() == 0 and jacobian[1, :, 0].abs().max() == 0
    v = torch.randn_like(z)
    product = torch.einsum("niNj,Nj->ni", jacobian, v.flatten(1)).view_as(z)
    assert torch.allclose(product, jvp(lambda z: system.step(z, x), (z,), (v,))[1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ALL_MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_of_the_state_is_kept_everywhere(name, dtype):
    system, x, z = system_and_context(name, dtype)
    stepped = system.step(z, x)
    noisy = system.step(z, x, KeyedNoise(torch.arange(5), 0))
    assert stepped.dtype == noisy.dtype == system.initial(x).dtype == dtype and torch.isfinite(noisy).all()
    assert stepped.shape == z.shape == (5, *system.state_shape)
    assert system.logits(z, x).shape == (5, system.config.seq_len, 5) and system.logits(z, x).dtype == dtype
    assert system.halt_logit(z, x).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert system.decode(z, x).dtype == torch.int64
    assert jvp(lambda z: system.step(z, x), (z,), (torch.ones_like(z),))[1].dtype == dtype


@pytest.mark.parametrize("nudged", ["state", "context"])
@pytest.mark.parametrize("name", SMOOTH_MODELS)
def test_no_hidden_cast_spoils_float64(name, nudged):
    system, x, z = system_and_context(name)
    wide = system.step(z, x)
    narrow = system.step(z.float(), cast_floating(x, torch.float32, None))
    difference = ((wide - narrow).norm() / wide.norm()).item()
    assert 1e-9 < difference < 1e-5, "float64 and float32 results must differ by float32 rounding"
    # A change of 1e-12 passes through; any float32 cast on the way would swallow it.
    f, at = (lambda z: system.step(z, x), z) if nudged == "state" else (lambda x: system.step(z, x), x)
    nudge = 1e-12 * at.sign()
    change, expected = (f(at + nudge) - wide) / 1e-12, jvp(f, (at,), (nudge / 1e-12,))[1]
    assert (change - expected).norm() <= 0.02 * expected.norm()


def test_float64_iteration_of_a_contracting_model_settles_below_1e_12():
    model = small_eqr(damping=0.0)
    with torch.no_grad():
        for p in model.L_level.parameters():
            p.mul_(0.2)
    x = model.encode(tokens(3, model)).detach().double()
    z = model.initial(x, torch.Generator().manual_seed(0))
    for _ in range(800):
        z = model.step(z, x).detach()
    residual = (model.step(z, x) - z).flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1)
    assert residual.max() < 1e-14


def test_bfloat16_and_float32_iterate_the_same_map():
    model = small_eqr(mixer="attention", positions="rope2d")
    x = model.encode(tokens(4, model)).detach()
    z = model.initial(x, torch.Generator().manual_seed(0))
    low = model.step(z.bfloat16(), x.bfloat16()).float()
    assert (low - model.step(z, x)).norm() <= 0.05 * low.norm()


def test_wrong_state_shapes_are_refused():
    model = small_eqr()
    x = model.encode(tokens(2, model))
    with pytest.raises(ValueError, match=r"\(n, 2, 6, 16\) is required, got \(2, 6, 16\)"):
        model.step(torch.zeros(2, 6, 16), x)


def test_with_noise_shares_weights_and_changes_only_the_amplitude():
    model = small_eqr(noise_scale=0.1)
    louder = model.with_noise(0.5)
    assert louder.noise_scale == 0.5 and model.noise_scale == 0.1
    assert louder.lm_head.weight is model.lm_head.weight
    x = model.encode(tokens(2, model)).detach()
    z = model.initial(x, torch.Generator().manual_seed(0))
    assert torch.equal(model.step(z, x), louder.step(z, x))
    silent, keys = model.with_noise(0.0), torch.arange(2)
    assert torch.equal(silent.step(z, x, KeyedNoise(keys, 0)), model.step(z, x))


def test_a_plain_map_becomes_a_system():
    half = MapSystem(lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 3), generator=g))
    x = half.encode(torch.ones(4, 2, dtype=torch.long))
    z = half.initial(x, torch.Generator().manual_seed(0))
    assert torch.equal(half.step(z, x), z / 2)
    assert half.decode(z, x).tolist() == [[0]] * 4
    assert half.with_noise(0.3).noise_scale == 0.3
    noisy = MapSystem(lambda z, x, noise=None: noise(z), lambda x, g: x, noise_scale=0.25)
    assert torch.equal(noisy.step(z, x, torch.ones_like), torch.full_like(z, 0.25))


def test_contexts_of_any_structure_are_cast_and_indexed():
    x = {"a": torch.zeros(4, 2), "b": (torch.arange(4), "label")}
    cast = cast_floating(x, torch.float64, None)
    assert cast["a"].dtype == torch.float64 and cast["b"][0].dtype == torch.int64 and cast["b"][1] == "label"
    rows = take_rows(x, torch.tensor([3, 1]))
    assert rows["a"].shape == (2, 2) and rows["b"][0].tolist() == [3, 1]


VALID = {"vocab_size": 5, "seq_len": 6}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": "conv"}, "mixer 'conv' unknown; choose from mlp, attention"),
        ({"positions": "absolute"}, "choose from none, rope, rope2d, learned"),
        ({"hidden_size": 0}, "hidden_size must be >= 1, got 0"),
        ({"hidden_size": 64.0}, "hidden_size must be of type int, got 64.0"),
        ({"H_cycles": True}, "H_cycles must be of type int, got True"),
        ({"seq_len": 10**9}, "must be <= 65536"),
        ({"expansion": 0.0}, "expansion must be > 0"),
        ({"rope_theta": float("nan")}, "rope_theta must be finite"),
        *(
            ({name: 10**400}, f"{name} must be finite, got an integer of more than 64 bits")
            for name in ("expansion", "rope_theta", "norm_eps", "noise_scale", "damping", "H_init_std")
        ),
        *(
            ({"rope_theta": value}, r"rope_theta must be in \[1e-06, 1e\+12\]")
            for value in (1e-320, 0, 1e300)
        ),
        ({"noise_scale": -0.1}, "noise_scale must be >= 0"),
        ({"damping": 1.0}, r"damping must be in \[0, 1\), got 1.0"),
        ({"H_init_std": -1.0}, "initial standard deviations must be >= 0"),
        ({"halt_max_steps": 0}, "halt_max_steps must be >= 1"),
        ({"halt_exploration": 1.5}, "halt_exploration must be in"),
        ({"prefix_dim": 3}, "prefix_dim 3 does not fit into 0 positions"),
        ({"mixer": "attention", "num_heads": 5}, "hidden_size 64 must be a multiple of num_heads 5"),
        ({"mixer": "attention", "positions": "rope", "num_heads": 64}, "rope needs a head size"),
        ({"mixer": "attention", "positions": "rope2d", "board": [2, 2]}, "board of seq_len 6 cells"),
        ({"board": [2]}, "board must be two integers >= 1"),
        ({"board": "23"}, "board must be two integers >= 1"),
        ({"hiden_size": 32}, "unknown configuration keys hiden_size; EqRConfig knows"),
    ],
)
def test_a_configuration_that_no_model_can_have_is_named(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        EqRConfig.from_dict({**VALID, **changes})
    assert "\n" not in str(caught.value)


def test_whole_numbers_of_a_configuration_become_floats_where_floats_are_meant():
    config = EqRConfig.from_dict({**VALID, "rope_theta": 500, "noise_scale": 0})
    assert [repr(v) for v in (config.rope_theta, config.noise_scale)] == ["500.0", "0.0"]


def test_missing_configuration_values_are_named():
    with pytest.raises(ValueError, match="configuration lacks vocab_size, seq_len"):
        EqRConfig.from_dict({})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the compiler warns of in itself
def test_compiled_blocks_are_the_blocks_and_leave_derivatives_alone():
    plain, compiled = small_eqr(layers=2), small_eqr(layers=2)
    compiled.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match="'always' unknown; choose from iteration, training, never"):
        compiled.compile("always")
    compiled.compile()
    x = plain.encode(tokens(3, plain))
    z = plain.initial(x, torch.Generator().manual_seed(0))
    quieter = compiled.with_noise(0.0)  # a copy shares the blocks
    with torch.no_grad(), torch.profiler.profile() as watched:
        ours = quieter.step(z, x)
    assert any("CompiledFxGraph" in event.key for event in watched.key_averages())
    with torch.no_grad():
        assert torch.allclose(ours, plain.with_noise(0.0).step(z, x), atol=1e-5)
        found, wanted = (jvp(lambda z, m=m: m.step(z, x), (z,), (z,))[1] for m in (compiled, plain))
    assert torch.equal(found, wanted)
    with ThreadPoolExecutor(1) as pool:  # batches run in threads, and torch keeps this limit by thread
        pool.submit(torch.no_grad()(quieter.step), z, x).result()
        assert pool.submit(lambda: torch._dynamo.config.recompile_limit).result() >= 64
    compiled.step(z.requires_grad_(), x).sum().backward()
    assert z.grad is not None
