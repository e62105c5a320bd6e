"""The official EqR code, for races: not shipped, imported from the clone that EQR_OFFICIAL names.

https://github.com/locuslab/EqR (`pip install pydantic omegaconf hydra-core colorama argdantic psutil coolname wandb`).
Its attention needs a kernel of its own (flash_attn): torch's scaled_dot_product_attention stands in for it.
"""

import os
import sys
from types import SimpleNamespace

import pytest
import torch


def official_code():
    """Return the parts of the official code that are raced against, or skip with the reason."""
    path = os.environ.get("EQR_OFFICIAL")
    if not path:
        pytest.skip("set EQR_OFFICIAL to a clone of https://github.com/locuslab/EqR")
    sys.path.insert(0, path)
    try:
        from evaluators import eval_fn
        from models import ema, eqr, layers
        from models.losses import loss_heads
    except ImportError as error:
        pytest.skip(f"the official code cannot be imported: {error}")
    finally:
        sys.path.remove(path)

    def attention(q, k, v, causal=False):
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)

    layers.flash_attn_func = attention
    return SimpleNamespace(
        evaluate=eval_fn.evaluate, evaluator=eval_fn, model=eqr.EqRModel, inference_head=loss_heads.InferenceLossHead,
        training_head=loss_heads.ACTLossHead, averages=ema.EMAHelper,
    )  # fmt: skip


def official_model(official, model, depth, dtype="float32"):
    """Return the official model with the weights of ours."""
    c = model.config
    theirs = official.model(
        dict(
            batch_size=1, seq_len=c.seq_len, vocab_size=c.vocab_size, H_cycles=c.H_cycles, L_cycles=c.L_cycles,
            H_layers=0, L_layers=c.layers, hidden_size=c.hidden_size, expansion=c.expansion, num_heads=c.num_heads,
            pos_encodings=c.positions, board_height=c.board_shape[0], board_width=c.board_shape[1],
            halt_max_steps=depth, halt_exploration_prob=c.halt_exploration, forward_dtype=dtype,
            mlp_t=c.mixer == "mlp", lambda_=1 - c.damping, noise_scale=c.noise_scale,
        )
    )  # fmt: skip
    weights = {f"inner.{k}": v for k, v in model.state_dict().items()}
    missing, surplus = theirs.load_state_dict(weights, strict=False)
    assert not missing and not surplus, (missing, surplus)
    return theirs


def official_batch(inputs, labels):
    """Return puzzles as the official code wants them."""
    return {
        "inputs": torch.as_tensor(inputs).int(),
        "labels": torch.as_tensor(labels).long(),
        "puzzle_identifiers": torch.zeros(len(inputs), dtype=torch.int32),
    }
