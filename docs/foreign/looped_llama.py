"""A looped language model out of transformers' Llama layers: prelude, recurrent block from a random state, coda."""

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

from eqrlab.core import from_module

torch.manual_seed(0)
CONFIG = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
                     num_key_value_heads=4, attn_implementation="eager")  # fmt: skip


class LoopedLlama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed = nn.Embedding(c.vocab_size, c.hidden_size)
        self.rotary, self.norm = LlamaRotaryEmbedding(c), LlamaRMSNorm(c.hidden_size)
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(c, i) for i in range(4)
        )  # prelude, two that recur, coda
        self.adapter = nn.Linear(2 * c.hidden_size, c.hidden_size)
        self.head = nn.Linear(c.hidden_size, c.vocab_size)

    def run(self, h, *layers):
        length = h.shape[1]
        where = self.rotary(h, torch.arange(length)[None])
        mask = torch.full((length, length), torch.finfo(h.dtype).min, dtype=h.dtype).triu(1)[None, None]
        for i in layers:
            h = self.layers[i](h, attention_mask=mask, position_embeddings=where)
        return h

    def recur(self, h, x):
        return self.norm(self.run(self.adapter(torch.cat([h, x], -1)), 1, 2))


system = from_module(
    LoopedLlama(CONFIG),
    inputs=lambda model, tokens: model.run(model.embed(tokens), 0),
    carry=lambda model, x, generator: torch.randn(x.shape, generator=generator),
    step=lambda model, h, x: model.recur(h, x),
    readout=lambda model, h, x: model.head(model.run(h, 3))[
        :, -1:
    ],  # the next token; [:, i : i + 1] at position i
    task="generic",
)
