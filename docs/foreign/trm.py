"""PyPI's tiny-recursive-model: the carry is (outputs, latents)."""

import torch
from tiny_recursive_model import MLPMixer1D, TinyRecursiveModel

from eqrlab.core import from_module

torch.manual_seed(0)
model = TinyRecursiveModel(dim=16, num_tokens=8, network=MLPMixer1D(dim=16, depth=2, seq_len=36))


def step(model, carry, x):
    # deep_refinement does the same, all but the last under no_grad
    for _ in range(model.num_refinement_blocks):
        carry = model.refine_latent_then_output_once(x, *carry)
    return carry


system = from_module(
    model,
    inputs=lambda model, tokens: model.embed_inputs_with_registers(tokens)[0],
    carry=lambda model, x, generator: tuple(torch.randn(x.shape, generator=generator) for _ in range(2)),
    step=step,
    readout=lambda model, carry, x: model.to_pred(carry[0]),
    task="sudoku6",
)
