"""A system that breaks a promise is refused at the door in one sentence that says how to mend it."""

import numpy as np
import pytest
import torch

from eqrlab import attractors as at
from eqrlab.core import MapSystem
from tests.core_models import small_eqr
from tests.zoo import normal_start, puzzles

LAW = normal_start(3)
LINEAR = torch.nn.Linear(3, 3)
NORM = torch.nn.BatchNorm1d(3)
CALLS = [0]


def counting(z, x):
    CALLS[0] += 1
    return z / (1 + CALLS[0])


def remembering(z, x):
    x.add_(0.5)
    return z + x


STEPS = {
    "in place": (lambda z, x: z.mul_(0.5), "writes into its state"),
    "in place, on a view": (lambda z, x: z.flatten().clamp_(-0.1, 0.1).view_as(z), "writes into its state"),
    "in place, one cell": (lambda z, x: z.index_fill_(1, torch.tensor([0]), 1.0) * 0.5, "writes into its state"),
    "into the context": (remembering, "writes into its context"),
    "batch normalisation": (lambda z, x: torch.tanh(2 * NORM(z.float()).double()), "mixes rows"),
    "mean of the batch": (lambda z, x: z / 2 + 0.1 * z.mean(0), "mixes rows"),
    "number of rows": (lambda z, x: z / (1 + len(z)), "mixes rows"),
    "softmax over the rows": (lambda z, x: torch.softmax(z, 0), "mixes rows"),
    "place in the batch": (lambda z, x: z / 2 + torch.arange(len(z))[:, None] * 0.01, "mixes rows"),
    "global random numbers": (lambda z, x: z / 2 + 0.01 * torch.randn_like(z), "not deterministic"),
    "numpy random numbers": (lambda z, x: z / 2 + 0.01 * np.random.default_rng().random(), "not deterministic"),
    "dropout": (lambda z, x: torch.nn.functional.dropout(z, 0.3), "not deterministic"),
    "a counter": (counting, "not deterministic"),
    "single precision inside": (lambda z, x: LINEAR(z), r"does not take float64.*\.double\(\)"),
    "single precision out": (lambda z, x: LINEAR(z.float()), "must return a state of shape"),
    "another shape": (lambda z, x: z[:, :2], "must return a state of shape"),
    "a tuple": (lambda z, x: (z, z), "got a tuple"),
    "nothing": (lambda z, x: None, "got None"),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("restarts", [1, 3])
def test_sample_refuses_a_step_that_breaks_its_promise(name, restarts):
    step, words = STEPS[name]
    with pytest.raises(ValueError, match=words) as refusal:
        at.sample(MapSystem(step, LAW), puzzles(), restarts=restarts, depth=4)
    assert "\n" not in str(refusal.value)


OTHERS = {
    "plane": lambda s: at.plane(s, puzzles(), resolution=4),
    "return_test": lambda s: at.return_test(s, puzzles(), torch.ones(1, 2, 3).double()),
    "picard": lambda s: at.fixed_points(
        s, puzzles(), torch.ones(1, 2, 3).double(), method="picard", certify=False
    ),
    "basin_stability": lambda s: at.basin_stability(s, puzzles(), torch.ones(1, 2, 3).double()),
    "estimate_basins": lambda s: at.estimate_basins(s, puzzles()),
    "noop_test": lambda s: at.noop_test(s, puzzles()),
    "spectrum of one state": lambda s: at.spectrum(s, puzzles(), torch.ones(1, 1, 3).double(), k=1),
    "given starts": lambda s: at.sample(
        s, puzzles(), restarts=2, depth=4, initial=torch.ones(1, 2, 3).double()
    ),
}


@pytest.mark.parametrize(
    "name", ["in place", "batch normalisation", "global random numbers", "number of rows"]
)
@pytest.mark.parametrize("analysis", OTHERS)
def test_every_door_refuses_it(analysis, name):
    step, words = STEPS[name]
    with pytest.raises(ValueError, match=words):
        OTHERS[analysis](MapSystem(step, LAW))


LAWS = {
    "global numbers": (lambda x, g: torch.randn((len(x), 3)), "draw all random numbers"),
    "scalar states": (lambda x, g: torch.rand(len(x), generator=g), r"states \(n, 1\)"),
    "complex": (lambda x, g: torch.randn((len(x), 3), generator=g, dtype=torch.complex64), "view_as_real"),
    "integer": (lambda x, g: torch.randint(0, 5, (len(x), 3), generator=g), "got int64"),
    "a dict": (lambda x, g: {"h": torch.zeros(len(x), 3)}, "got a dict: stack or concatenate"),
    "a tuple": (lambda x, g: (torch.zeros(len(x), 3),), "got a tuple: stack or concatenate"),
    "wrong number": (lambda x, g: torch.randn((4, 3), generator=g), "got 4 starts for 1 row"),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("analysis", ["sample", "trajectory_exponents", "plane", "noop_test"])
def test_a_restart_law_is_refused_in_a_sentence(analysis, name):
    law, words = LAWS[name]
    system = MapSystem(lambda z, x: z / 2, law)
    if analysis != "sample" and name == "global numbers":
        return  # looked at where ensembles are made
    with pytest.raises(ValueError, match=words):
        getattr(at, analysis)(system, puzzles())


CODES = {
    "decode of the batch": ({"decode": lambda z, x: (z > z.mean(0)).long()}, r"decode\(\) mixes rows"),
    "decode in place": ({"decode": lambda z, x: z.round_().long()}, r"decode\(\) writes"),
    "decode at random": (
        {"decode": lambda z, x: torch.randint(0, 9, (len(z), 8))},
        r"decode\(\) is not determin",
    ),
    "decode of logits": ({"decode": lambda z, x: z}, "integer tokens"),
    "decode of one axis": ({"decode": lambda z, x: z.argmax(1)}, "integer tokens"),
    "encode of the batch": (
        {"encode": lambda t: t.double() - t.double().mean(0)},
        r"encode\(\) mixes puzzles",
    ),
    "encode of one row": ({"encode": lambda t: torch.zeros(1, 3)}, "one row for each puzzle"),
    "encode in place": ({"encode": lambda t: t.mul_(2).double()}, r"encode\(\) writes"),
}


@pytest.mark.parametrize("name", CODES)
def test_encode_and_decode_treat_every_row_by_itself(name):
    parts, words = CODES[name]
    with pytest.raises(ValueError, match=words):
        at.sample(MapSystem(lambda z, x: z / 2, LAW, **parts), puzzles(3) + 1, restarts=3, depth=4)


def test_noise_must_be_a_function_of_its_argument():
    loose = MapSystem(lambda z, x, noise=None: z / 2 if noise is None else z / 2 + torch.randn_like(z), LAW,
                      noise_scale=0.1)  # fmt: skip
    with pytest.raises(ValueError, match="with noise is not deterministic"):
        at.sample(loose, puzzles(), restarts=3, depth=4)


def test_maps_that_keep_their_promises_pass():
    eval_norm = torch.nn.BatchNorm1d(3).double().eval()
    for step in (
        lambda z, x: 0 * z,
        lambda z, x: torch.tanh(eval_norm(z)),
        lambda z, x: z.clone().mul_(0.5),
        lambda z, x: torch.where(z > 9, torch.nan, z / 2),
        lambda z, x: torch.nn.functional.layer_norm(z, (3,)),
        lambda z, x: z + 1e307,  # whose squares overflow
    ):
        assert at.sample(MapSystem(step, LAW), puzzles(2), restarts=3, depth=4).sizes["restart"] == 3
    zeros = lambda x, g: torch.zeros(len(x), 3, dtype=torch.float64)
    assert (
        at.sample(MapSystem(lambda z, x: z / 2, zeros), puzzles(), restarts=2, depth=4).sizes["restart"] == 2
    )


def test_a_refused_map_leaves_given_starts_as_they_were():
    z = torch.ones(1, 2, 3).double()
    with pytest.raises(ValueError, match="writes"):
        at.sample(MapSystem(lambda z, x: z.mul_(0.5), LAW), puzzles(), restarts=2, depth=4, initial=z)
    assert torch.equal(z, torch.ones(1, 2, 3).double())


def test_the_check_costs_a_few_rows():
    rows = []

    def step(z, x):
        rows.append(len(z))
        return z / 2

    at.sample(MapSystem(step, LAW), puzzles(3), restarts=40, depth=50)
    assert sum(rows) - 3 * 40 * 51 <= 5 * 5


MISUSE = {
    "puzzles as inputs": (lambda m: at.sample(m, type("PuzzleSet", (), {"inputs": puzzles()})()), r"pass its \.inputs"),
    "a name as a system": (lambda m: at.sample("eqr-sudoku6", puzzles()), r"core\.load\('eqr-sudoku6'\)"),
    "a name, other door": (lambda m: at.spectrum("eqr-sudoku6", puzzles(), torch.ones(1, 1, 3)), r"core\.load"),
    "a module": (lambda m: at.sample(LINEAR, puzzles()), "Linear has no encode, initial, step, decode: make"),
    "a function": (lambda m: at.fixed_points(torch.tanh, puzzles(), torch.ones(1, 1, 3)), "make one of a module"),
    "too few tokens": (lambda m: at.sample(m, puzzles(2)), "takes 6 tokens a puzzle, got 1"),
    "a row of tokens": (lambda m: m.encode(torch.ones(6, dtype=torch.long)), r"rows of tokens \(n, 6\), got \(6,\)"),
    "a token": (lambda m: m.encode(torch.tensor(1)), r"rows of tokens \(n, 6\), got \(\)"),
    "unknown tokens": (lambda m: at.sample(m, torch.full((1, 6), 99)), "token 99"),
    "float tokens": (lambda m: at.sample(m, torch.ones(1, 6)), "integer tokens"),
    "None": (lambda m: at.sample(m, None), "got a NoneType"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_ends_in_a_sentence_with_the_remedy(name):
    call, words = MISUSE[name]
    with pytest.raises(ValueError, match=words):
        call(small_eqr())


def test_given_starts_may_be_an_array_and_must_fit():
    system = MapSystem(lambda z, x: z / 2 + torch.ones(3), LAW)
    assert at.sample(system, puzzles(), restarts=2, depth=4, initial=np.ones((1, 2, 3))).sizes["restart"] == 2
    with pytest.raises(ValueError, match=r"state shape \(3,\), got \(5,\)"):
        at.sample(system, puzzles(), restarts=2, depth=4, initial=np.ones((1, 2, 5)))
