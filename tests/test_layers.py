"""Layers against direct formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from eqrlab.core.models.config import ReasonerConfig, inner_width
from eqrlab.core.models.layers import (
    Attention,
    Block,
    Blocks,
    Linear,
    Rotary,
    SwiGLU,
    TokenEmbedding,
    rms_norm,
    truncated_normal,
)
from tests.core_models import small_eqr, tokens


def states(*shape):
    return torch.randn(shape, dtype=torch.float64)


def test_inner_width_rounds_two_thirds_up_to_a_multiple_of_256():
    # 4 * 512 * 2/3 = 1365.3 -> 1536; 4 * 97 * 2/3 = 258.7 -> 512; 4 * 64 * 2/3 = 170.7 -> 256
    assert [inner_width(n, 4.0) for n in (512, 97, 64, 1)] == [1536, 512, 256, 256]


def test_initial_normals_are_truncated_at_two_sigma_and_have_unit_deviation():
    z = truncated_normal((200_000,), torch.Generator().manual_seed(0)).double().numpy()
    scale = 1 / stats.truncnorm(-2, 2).std()
    assert abs(z).max() <= 2 * scale * (1 + 1e-6)
    assert stats.kstest(z, stats.truncnorm(-2, 2, scale=scale).cdf).pvalue > 1e-3
    assert abs(z.std() - 1) < 0.005 and abs(z.mean()) < 0.01


def test_rms_norm_divides_by_the_root_mean_square():
    h = states(3, 5) * 10
    expected = h / (h.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(rms_norm(h), expected, rtol=1e-14)
    assert torch.allclose(rms_norm(h.bfloat16()).double(), expected, rtol=0.02)


def test_swiglu_is_down_of_silu_gate_times_up():
    layer, h = SwiGLU(6, inner_width(6, 1.0)), states(2, 3, 6)
    gate, up = layer.gate_up_proj.weight.double().split(256)
    silu = lambda v: v / (1 + torch.exp(-v))
    expected = (silu(h @ gate.T) * (h @ up.T)) @ layer.down_proj.weight.double().T
    assert torch.allclose(layer(h), expected, rtol=1e-12)


def test_bfloat16_products_are_exact_to_one_rounding_of_the_result():
    layer, h = Linear(300, 40, bias=0.5), states(7, 300).bfloat16()
    expected = h.double() @ layer.weight.bfloat16().double().T + layer.bias.double()
    assert layer(h).dtype == torch.bfloat16
    # Half a unit in the last of 8 bits, and what float32 sums round away.
    assert ((layer(h).double() - expected).abs() <= expected.abs() * 2**-8 + 1e-4).all()
    weights_as_they_are = h.double() @ layer.weight.double().T + layer.bias.double()
    assert (layer(h).double() - expected).square().sum() < (expected - weights_as_they_are).square().sum() * 2


def test_weights_start_with_variance_one_over_inputs_and_bias_where_asked():
    layer = Linear(400, 300, bias=-5.0)
    assert abs(layer.weight.std().item() * 20 - 1) < 0.01
    assert layer.bias.tolist() == [-5.0] * 300 and Linear(2, 2).bias is None


def rotated(vector, place, theta):
    """Rotate pairs (i, i + half) of one vector by place * theta^(-2i/size)."""
    size = len(vector)
    out = vector.clone()
    for i in range(size // 2):
        angle = place * theta ** (-2 * i / size)
        a, b = vector[i], vector[i + size // 2]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + size // 2] = b * math.cos(angle) + a * math.sin(angle)
    return out


def test_rope_rotates_pairs_by_the_place_in_the_sequence():
    v = states(2, 5, 3, 8)
    got = Rotary("rope", 5, 8, 100.0, (1, 5))(v)
    for place in range(5):
        assert torch.allclose(got[1, place, 2], rotated(v[1, place, 2], place, 100.0), atol=1e-6)


def test_rotary_angles_keep_their_precision_whatever_that_of_the_weights():
    v = states(2, 5, 3, 8)
    rotary = Rotary("rope", 5, 8, 100.0, (1, 5))
    expected = rotary(v)
    assert torch.equal(rotary.bfloat16().float()(v), expected)
    assert torch.equal(rotary.half()(v), expected) and rotary.to("meta").cos.device.type == "meta"


@pytest.mark.parametrize("box", [None, (2, 3)])
def test_rope2d_rotates_half_by_row_and_half_by_column(box):
    v = states(1, 24, 2, 2, 8)
    got = Rotary("rope2d", 24, 8, 100.0, (4, 6), box)(v)
    for place in range(24):
        row, column = divmod(place, 6)
        if box:
            row, column = row + row // 2, column + column // 3
        for kind in range(2):
            first, second = v[0, place, kind, 1].split(4)
            expected = torch.cat((rotated(first, row, 100.0), rotated(second, column, 100.0)))
            assert torch.allclose(got[0, place, kind, 1], expected, atol=1e-6)


@pytest.mark.parametrize("length", [7, 140])
def test_attention_is_softmax_of_scaled_products(length):
    layer, h = Attention(8, 2, None), states(2, length, 8)
    qkv = h @ layer.qkv_proj.weight.double().T
    q, k, v = (part.view(2, length, 2, 4) for part in qkv.split(8, dim=-1))
    weights = torch.einsum("nihc,njhc->nhij", q, k).div(2.0).softmax(-1)
    mixed = torch.einsum("nhij,njhc->nihc", weights, v).reshape(2, length, 8)
    assert torch.allclose(layer(h), mixed @ layer.o_proj.weight.double().T, rtol=1e-11)


def test_rope_attention_depends_on_relative_places_only():
    layer = Attention(8, 2, Rotary("rope", 12, 4, 50.0, (1, 12)))
    h = torch.zeros(1, 12, 8, dtype=torch.float64)
    q, k = states(2, 8), states(2, 8)

    def product(i, j):
        both = h.clone()
        both[0, i], both[0, j] = q[0], k[0]
        qkv = layer.qkv_proj(both).view(1, 12, 3, 2, 4)
        turned = layer.rotary(qkv[:, :, :2])
        return (turned[0, i, 0] * turned[0, j, 1]).sum()

    assert torch.allclose(product(2, 5), product(7, 10), rtol=1e-5)
    assert not torch.allclose(product(2, 5), product(2, 6), rtol=1e-3)


def shape(mixer, **changes):
    return ReasonerConfig(
        vocab_size=3, seq_len=5, hidden_size=8, num_heads=2, expansion=1.0, mixer=mixer, **changes
    )


@pytest.mark.parametrize("mixer", ["mlp", "attention"])
def test_block_normalises_after_each_sum(mixer):
    block, h = Block(shape(mixer), None), states(2, 5, 8)
    if mixer == "mlp":
        mixed = rms_norm((h.mT + block.mlp_t(h.mT)).contiguous()).mT
    else:
        mixed = rms_norm(h + block.self_attn(h))
    assert torch.allclose(block(h), rms_norm(mixed + block.mlp(mixed)), rtol=1e-13)


@pytest.mark.parametrize("mixer", ["mlp", "attention"])
def test_rows_taken_in_groups_give_the_same(mixer):
    blocks, h = Blocks([Block(shape(mixer), None) for _ in range(2)]), states(7, 5, 8).requires_grad_()
    whole = blocks(h)
    (gradient,) = torch.autograd.grad(whole.square().sum(), h)
    blocks.rows_at_once = 3
    grouped = blocks(h)
    assert torch.allclose(grouped, whole, rtol=0, atol=1e-13)
    assert torch.allclose(torch.autograd.grad(grouped.square().sum(), h)[0], gradient, rtol=0, atol=1e-12)


def test_embedding_scales_tokens_prefix_and_positions():
    layer = TokenEmbedding(5, 4, 8, prefix_len=2, prefix_dim=6, learned_positions=True)
    layer.prefix.copy_(torch.arange(1.0, 7.0))
    inputs = torch.tensor([[0, 3, 1, 4, 2, 2]])
    x = layer(inputs)
    prefix = torch.tensor([[1.0, 2, 3, 4], [5, 6, 0, 0]])
    expected = (
        2 * 0.707106781 * (torch.cat((prefix, layer.embedding_weight[inputs[0]])) + layer.position_weight)
    )
    assert torch.allclose(x[0], expected)


def test_restart_law_gives_each_stream_its_own_deviation():
    model = small_eqr(hidden_size=64, num_heads=2, H_init_std=0.5, L_init_std=2.0)
    z = model.initial(model.encode(tokens(64, model)).double(), torch.Generator().manual_seed(0))
    assert z.dtype == torch.float64 and z.shape == (64, 2, 6, 64)
    assert abs(z[:, 0].std() - 0.5) < 0.01 and abs(z[:, 1].std() - 2.0) < 0.04
    again = model.initial(model.encode(tokens(64, model)), torch.Generator().manual_seed(0))
    assert torch.equal(z.float(), again)


def test_one_outer_step_follows_the_paper():
    """z_L <- F(z_L, z_H + x) L_cycles times, z_H <- F(z_H, z_L), H_cycles times; F damps towards the old state."""
    model = small_eqr(damping=0.05, H_cycles=2, L_cycles=3, noise_scale=0.1)
    x = model.encode(tokens(2, model)).detach().double()
    z = model.initial(x, torch.Generator().manual_seed(0))
    normals = [states(2, 6, 16) for _ in range(8)]

    def level(z, injection, normal):
        return 0.05 * z + 0.95 * model.L_level(z + injection) + 0.1 * normal

    z_H, z_L = z.unbind(1)
    draws = iter(normals)
    for _ in range(2):
        for _ in range(3):
            z_L = level(z_L, z_H + x, next(draws))
        z_H = level(z_H, z_L, next(draws))
    replay = iter(normals)
    assert torch.allclose(model.step(z, x, lambda h: next(replay)), torch.stack((z_H, z_L), 1), rtol=1e-12)
    assert next(replay, None) is None and model.trained_updates == 4
