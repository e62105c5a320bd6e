"""Every family is the recursion that it claims to be, and starts, trains and is saved as its authors say."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.func import jvp, vjp

from eqrlab import attractors as at
from eqrlab.core import KeyedNoise, build, load, save
from eqrlab.core.models.config import ReasonerConfig
from eqrlab.core.models.families import built_in
from eqrlab.core.models.layers import SwiGLU, truncated_normal
from tests.core_models import assert_same_outputs, tokens
from tests.family_models import SMOOTH, VARIANTS, small_model

# torch.func.jvp loads decompositions that torch itself still writes with torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
all_variants = pytest.mark.parametrize("name", VARIANTS)
smooth_variants = pytest.mark.parametrize("name", SMOOTH)


@smooth_variants
def test_smoothing_leaves_smooth_maps_alone(name):
    model = small_model(name)
    assert model.smooth().config == model.config


@all_variants
def test_saved_models_come_back_as_they_were(name, tmp_path):
    model = small_model(name)
    save(model, tmp_path / "m.safetensors")
    back = load(tmp_path / "m.safetensors")
    assert (back.family, back.task, back.config) == (model.family, "toy", model.config)
    assert_same_outputs(model, back)


@all_variants
def test_a_family_can_be_sampled(name):
    model = small_model(name)
    ensemble = at.sample(model, tokens(2, model), restarts=3, depth=4, noise=0.0)
    assert ensemble.sizes["restart"] == 3 and ensemble.attrs["family"] == model.family


# The families ------------------------------------------------------------------------------------------------------


def unfolded(model, z, x):
    """Apply one outer step as the equations of the family say, block by block."""
    c, streams = model.config, list(z.unbind(1))
    through = lambda blocks, h: [h := layer(h) for layer in blocks.layers][-1]
    if model.family == "feedforward":
        return torch.stack([through(model.level, x)], dim=1)
    for _ in range(c.H_cycles):
        for _ in range(c.L_cycles):
            if model.streams == 1:
                streams[0] = through(model.level, streams[0] + x)
            else:
                streams[1] = through(model.L_level, streams[1] + streams[0] + x)
        if model.family == "trm":
            streams[0] = through(model.L_level, streams[0] + streams[1])
        if model.family == "hrm":
            streams[0] = through(model.H_level, streams[0] + streams[1])
    return torch.stack(streams, dim=1)


@pytest.mark.parametrize("name", [n for n in SMOOTH if n != "eqr"])
@pytest.mark.parametrize("cycles", [(1, 1), (2, 3)])
def test_an_outer_step_is_the_recursion_of_the_family(name, cycles):
    family = VARIANTS[name][0]
    changes = {} if family == "feedforward" else dict(zip(("H_cycles", "L_cycles"), cycles, strict=True))
    model = small_model(name, **changes)
    x = model.encode(tokens(3, model)).double()
    z = model.random_initial(x, torch.Generator().manual_seed(0))
    assert torch.allclose(model.step(z, x), unfolded(model, z, x), rtol=0, atol=1e-13)


def test_eqr_without_damping_is_trm_without_prefix():
    eqr, trm = small_model("eqr", damping=0.0), small_model("trm mlp")
    trm.load_state_dict(eqr.state_dict() | {k: getattr(trm, k) for k in ("H_init", "L_init")})
    x = eqr.encode(tokens(3, eqr))
    z = eqr.initial(x, torch.Generator().manual_seed(0))
    assert torch.equal(eqr.step(z, x), trm.step(z, x))
    noise = lambda: KeyedNoise(torch.arange(3), 0)
    assert torch.equal(eqr.step(z, x, noise()), trm.step(z, x, noise()))


@all_variants
def test_trained_updates_are_those_of_the_official_trainers(name):
    model = small_model(name)
    c = model.config
    free, last = len(model.schedule) - model.trained_updates, model.schedule[-model.trained_updates :]
    expected = {
        "eqr": ((c.H_cycles - 1) * (c.L_cycles + 1), ("L",) * c.L_cycles + ("H",)),
        "trm": ((c.H_cycles - 1) * (c.L_cycles + 1), ("L",) * c.L_cycles + ("H",)),
        "hrm": (c.H_cycles * (c.L_cycles + 1) - 2, ("L", "H")),
        "urm": ((c.H_cycles - 1) * c.L_cycles, ("z",) * c.L_cycles),
        "tied": ((c.H_cycles - 1) * c.L_cycles, ("z",) * c.L_cycles),
        "feedforward": (0, ("z",)),
    }
    assert (free, last) == expected[model.family]


@all_variants
def test_restarts_follow_the_law_of_the_family(name):
    model = small_model(name)
    x = model.encode(tokens(3, model))
    first, second = (model.initial(x, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert torch.equal(first, second) == (not model.random_starts)
    if not model.random_starts:
        assert torch.equal(first, first[:1, :, :1].expand_as(first)), (
            "one vector at every position of every row"
        )
        first += 1  # nobody else sees this
        assert torch.equal(model.initial(x), second)
    if model.family in ("trm", "hrm"):
        assert torch.equal(second[0, :, 0], torch.stack((model.H_init, model.L_init)))
    if model.family == "feedforward":
        assert second.count_nonzero() == 0


@all_variants
def test_random_starts_are_truncated_standard_normals_of_the_generator(name):
    model = small_model(name, hidden_size=64)
    x = model.encode(tokens(40, model)).double()
    z, again = (model.random_initial(x, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(z, again) and z.dtype == torch.float64 and z.shape == (40, *model.state_shape)
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03 and z.abs().max() < 2.3


def test_stored_starts_make_all_restarts_the_same_run_and_random_ones_do_not():
    model = small_model("trm mlp")
    inputs = tokens(2, model)
    stored = at.sample(model, inputs, restarts=3, depth=3, noise=0.0)
    assert (stored.residual == stored.residual.isel(restart=0)).all()
    free = at.sample(model, inputs, restarts=3, depth=3, noise=0.0, initial=model.random_initial)
    assert not (free.residual == free.residual.isel(restart=0)).all()
    assert free.attrs["initial_law"] != stored.attrs["initial_law"]


def test_a_feedforward_model_is_settled_after_one_step_wherever_it_starts():
    model = small_model("feedforward mlp")
    x = model.encode(tokens(3, model))
    z = model.random_initial(x, torch.Generator().manual_seed(0))
    assert torch.equal(model.step(z, x), model.step(model.initial(x), x))
    assert torch.equal(model.step(model.step(z, x), x), model.step(z, x))


# URM's convolution -------------------------------------------------------------------------------------------------


def test_the_convolution_is_a_causal_depthwise_one():
    torch.manual_seed(0)
    mlp = SwiGLU(8, 256, convolution=True).double()
    h = torch.randn(2, 5, 8, dtype=torch.float64)
    gate, up = mlp.gate_up_proj(h).chunk(2, dim=-1)
    inner = torch.nn.functional.silu(gate) * up
    conv = torch.nn.Conv1d(256, 256, 2, padding=1, groups=256, dtype=torch.float64)
    conv.load_state_dict(mlp.dwconv.state_dict())
    mixed = torch.nn.functional.silu(conv(inner.transpose(1, 2))[..., :5].transpose(1, 2))
    assert torch.allclose(mlp(h), mlp.down_proj(mixed), rtol=0, atol=1e-13)
    later = h.clone()
    later[:, 3:] = 0
    assert torch.equal(mlp(later)[:, :3], mlp(h)[:, :3])


def test_the_bfloat16_section_rounds_as_half_precision_does():
    torch.manual_seed(0)
    mlp = SwiGLU(64, 256, convolution=True)
    h = torch.randn(2, 7, 64)
    narrow = mlp(h, narrow=True)
    assert narrow.dtype == torch.float32 and torch.equal(narrow, narrow.bfloat16().float())
    relative = ((narrow - mlp(h)).norm() / mlp(h).norm()).item()
    assert 5e-4 < relative < 1e-2, "the distance must be that of bfloat16 rounding"


def test_the_convolution_follows_the_state_when_it_is_asked_to():
    rough = small_model("urm bfloat16")
    smooth = rough.replace(conv_dtype="state")
    x = rough.encode(tokens(3, rough)).double()
    z = rough.random_initial(x, torch.Generator().manual_seed(0))
    difference = (rough.step(z, x) - smooth.step(z, x)).norm() / smooth.step(z, x).norm()
    assert 1e-5 < difference < 1e-1 and smooth.level is rough.level
    assert torch.equal(rough.smooth().step(z, x), smooth.step(z, x))
    assert rough.config.conv_dtype == "bfloat16" and rough.step(z, x).dtype == torch.float64


def test_rough_derivatives_are_those_of_the_smooth_map_up_to_rounding():
    rough = small_model("urm bfloat16", H_cycles=1, L_cycles=1)
    smooth = rough.replace(conv_dtype="state")
    x = rough.encode(tokens(3, rough)).detach().double()
    z = rough.random_initial(x, torch.Generator().manual_seed(0))
    v, u = torch.randn_like(z), torch.randn_like(z)
    one, two = (jvp(lambda z, m=m: m.step(z, x), (z,), (v,))[1] for m in (rough, smooth))
    assert 0 < (one - two).norm() < 0.05 * two.norm()
    one, two = (vjp(lambda z, m=m: m.step(z, x), z)[1](u)[0] for m in (rough, smooth))
    assert 0 < (one - two).norm() < 0.05 * two.norm()


# Configurations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_stored_configuration_comes_back_whatever_the_defaults_of_its_family(pre_norm):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(ReasonerConfig):
        pre_norm: bool = True

    config = Own(vocab_size=3, seq_len=4, pre_norm=pre_norm)
    assert Own.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("family", "values", "reason"),
    [
        ("foo", {}, "family 'foo' unknown; choose from eqr, feedforward, hrm, tied, trm, urm"),
        ("trm", {"damping": 0.1}, "unknown configuration keys damping"),
        ("hrm", {"H_layers": 0}, "H_layers must be >= 1, got 0"),
        ("hrm", {"H_layers": 1.0}, "H_layers must be of type int, got 1.0"),
        ("urm", {"conv_dtype": "float8"}, "conv_dtype 'float8' unknown; choose from bfloat16, state"),
        ("feedforward", {"H_cycles": 2}, "H_cycles of a feedforward model must be 1, got 2"),
        ("feedforward", {"halt_max_steps": 16}, "halt_max_steps of a feedforward model must be 1, got 16"),
    ],
)
def test_wrong_configurations_are_refused(family, values, reason):
    with pytest.raises(ValueError) as caught:
        build(family, {"vocab_size": 5, "seq_len": 6, **values})
    assert reason in str(caught.value)


@pytest.mark.parametrize("family", built_in())
def test_weights_and_starts_are_float32_whatever_is_the_default_of_torch(family):
    values = {"vocab_size": 8, "seq_len": 36, "norm_weights": True, "prefix_len": 1, "prefix_dim": 8}
    draw = lambda: truncated_normal((3,), torch.Generator().manual_seed(0))
    expected = draw()
    torch.set_default_dtype(torch.float64)
    try:
        model, starts = build(family, values), draw()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {t.dtype for t in (*model.parameters(), *model.buffers())} == {torch.float32}
    assert torch.equal(starts, expected)


@pytest.mark.parametrize("family", built_in())
def test_defaults_build_and_weights_are_at_least_what_the_configuration_promises(family):
    torch.manual_seed(0)
    model = build(family, {"vocab_size": 8, "seq_len": 36})
    assert model.family == family and dataclasses.is_dataclass(model.config)
    weights = sum(p.numel() for p in model.parameters())
    assert 0.9 * weights < model.config.least_weights <= weights
    deeper = build(family, {"vocab_size": 8, "seq_len": 36, "layers": 3})
    assert deeper.config.least_weights > model.config.least_weights
