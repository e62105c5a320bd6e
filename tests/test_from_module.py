"""A module with a carry becomes a system: packed and taken apart exactly, in float64, its broken promises named."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from eqrlab import attractors as at
from eqrlab.analyses.commands.common.own_system import is_own, load_system
from eqrlab.core import from_module

TOKENS = torch.arange(3)[:, None]


@dataclass
class Carry:
    high: torch.Tensor
    low: torch.Tensor


class Halving(nn.Module):
    """high <- high / 2, low <- low / 4 + x."""

    def forward(self, carry, x):
        return Carry(carry.high / 2, carry.low / 4 + x[:, None])


def start(module, x, generator):
    n = len(x)
    return Carry(
        torch.randn(n, 2, generator=generator), torch.randn(n, 2, 3, generator=generator).to(torch.float64)
    )


def halving(step=lambda m, c, x: m(c, x), carry=start, module=None):
    return from_module(
        module or Halving(), step=step, carry=carry, inputs=lambda m, tokens: tokens[:, :1].double()
    )


def test_a_carry_of_a_dataclass_is_packed_and_taken_apart_exactly():
    system = halving()
    x = system.encode(TOKENS)
    z = system.initial(x, torch.Generator().manual_seed(0))
    assert z.shape == (3, 8) and z.dtype == torch.float64
    carry = system.unpack(z)
    assert isinstance(carry, Carry) and carry.low.shape == (3, 2, 3)
    assert torch.equal(system.step(z, x)[:, :2], carry.high / 2)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict", "nested"])
def test_every_kind_of_carry_steps_as_its_parts_do(kind):
    wrap = {
        "tensor": lambda a, b: torch.cat([a, b], 1), "tuple": lambda a, b: (a, b),
        "dict": lambda a, b: {"a": a, "b": b},
        "nested": lambda a, b: {"a": (a,), "b": [b]},
    }[kind]  # fmt: skip
    double = lambda m, c, x: torch.utils._pytree.tree_map(lambda v: 2 * v, c)
    draw = lambda m, x, g: wrap(torch.randn(len(x), 2, generator=g), torch.randn(len(x), 3, generator=g))
    system = halving(double, draw)
    x = system.encode(TOKENS)
    z = system.initial(x, torch.Generator().manual_seed(1)).double()
    assert torch.equal(system.step(z, x), 2 * z) and z.shape == (3, 5)


def test_eigenvalues_of_a_float32_module_are_exact_in_float64():
    linear = nn.Linear(2, 2, bias=False)
    linear.weight.data = torch.tensor([[0.5, 0.0], [0.0, -0.25]])
    system = halving(lambda m, c, x: m(c), lambda m, x, g: torch.randn(len(x), 2, generator=g), linear)
    found = at.spectrum(system, TOKENS, torch.zeros(3, 1, 2, dtype=torch.float64), k=2)
    np.testing.assert_allclose(np.sort(found.eigenvalue.values.real, -1)[0, 0], [-0.25, 0.5], atol=1e-12)
    assert linear.weight.requires_grad and linear.weight.dtype == torch.float32, (
        "the module itself is left alone"
    )
    system.check(TOKENS)


def test_runs_settle_at_the_fixed_point_of_the_module():
    ensemble = at.sample(halving(), TOKENS, restarts=4, depth=64, keep=("summary", "final_state"))
    expected = TOKENS.double().numpy() * 4 / 3
    np.testing.assert_allclose(
        ensemble.final_state.values[..., 2:], np.broadcast_to(expected[:, None], (3, 4, 6)), atol=1e-30
    )
    assert ensemble.attrs["checkpoint"] == "Halving" and (at.words(ensemble.fate) == "settled").all()


def no_grad(m, c, x):
    with torch.no_grad():
        return m(c, x)


def detached(m, c, x):
    found = m(c, x)
    return Carry(found.high.detach(), found.low)


def global_noise(m, c, x):
    found = m(c, x)
    return Carry(found.high + 0.1 * torch.randn_like(found.high), found.low)


def mixing(m, c, x):
    found = m(c, x)
    return Carry(found.high - found.high.mean(0), found.low)


def ignoring(m, x, generator):
    return Carry(torch.randn(len(x), 2), torch.randn(len(x), 2, 3))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"step": no_grad}, r"no derivative: it runs under torch.no_grad.*call the inner function"),
        ({"step": detached}, r"wrong derivative: a part of the carry is detached"),
        ({"step": global_noise}, r"draws from torch's global random numbers; noise must come from"),
        ({"step": mixing}, r"mixes rows.*no statistics over the batch"),
        ({"carry": ignoring}, r"two starts for one generator.*generator=generator"),
        (
            {"carry": lambda m, x, g: (torch.zeros(len(x), 2), torch.zeros(len(x)).long())},
            "leave counters and flags out",
        ),
        ({"step": lambda m, c, x: (c.high, c.low)}, "must return a carry like the one it gets"),
    ],
)
def test_a_broken_promise_is_named_with_its_remedy(changes, told):
    with pytest.raises(ValueError, match=told):
        halving(**changes).check(TOKENS)


def test_a_system_that_keeps_its_promises_passes():
    halving().check(TOKENS)
    halving().check(TOKENS[:1])


@pytest.mark.parametrize("read", [lambda h: h, lambda h: h.argmax(-1), lambda h: "text"])
def test_a_readout_of_another_shape_is_refused_by_its_name(read):
    system = from_module(
        torch.nn.Linear(2, 2),
        step=lambda m, h, x: m(h),
        carry=lambda m, x, generator: torch.randn(len(x), 2, generator=generator),
        readout=lambda m, h, x: read(h),
    )
    with pytest.raises(
        ValueError, match=r"readout must return logits \(n, L, V\) or integer tokens \(n, L\), got"
    ):
        at.sample(system, torch.tensor([[1], [2]]), restarts=2, depth=2)


def test_a_dictionary_may_come_back_in_another_order():
    draw = lambda m, x, g: {name: torch.randn(len(x), 2, generator=g) for name in "ab"}
    system = halving(lambda m, c, x: {"b": 3 * c["b"], "a": 2 * c["a"]}, draw)
    x = system.encode(TOKENS)
    z = system.initial(x, torch.Generator().manual_seed(0))
    assert torch.equal(system.step(z, x), z * torch.tensor([2, 2, 3, 3]))


def test_a_carry_of_another_kind_is_told_by_its_kind():
    draw = lambda m, x, g: (torch.zeros(len(x), 2), torch.zeros(len(x), 2))
    system = halving(lambda m, c, x: list(c), draw)
    with pytest.raises(ValueError, match=r"a carry like the one it gets: .*tuple.* but got .*list"):
        at.sample(system, TOKENS, restarts=2, depth=2)


def test_one_system_takes_puzzles_of_several_sizes():
    system = from_module(
        nn.Identity(),
        step=lambda m, h, x: h / 2,
        carry=lambda m, x, generator: torch.randn(len(x), x.shape[1], 2, generator=generator),
    )
    for cells in (3, 5, 3):
        tokens = torch.ones(2, cells, dtype=torch.long)
        at.sample(system, tokens, restarts=2, depth=2)
        assert system.unpack(system.initial(tokens, torch.Generator())).shape == (2, cells, 2)
    with pytest.raises(ValueError, match=r"state shape \(6,\), got \(7,\)"):
        system.step(torch.zeros(2, 7), tokens)


def test_a_context_without_tensors_is_refused():
    system = from_module(
        nn.Identity(),
        step=lambda m, h, x: h,
        carry=lambda m, x, g: torch.zeros(2, 2),
        inputs=lambda m, t: None,
    )
    with pytest.raises(ValueError, match=r"inputs\(\) must give a context with at least one tensor"):
        at.sample(system, TOKENS, restarts=2, depth=2)


def test_what_is_no_module_is_sent_to_map_system():
    with pytest.raises(ValueError, match=r"must be a torch.nn.Module, got function: .* MapSystem"):
        from_module(lambda z: z, step=lambda m, h, x: h, carry=lambda m, x, g: torch.zeros(len(x), 1))


def test_a_file_and_a_name_give_a_system_and_misuse_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom eqrlab.core import MapSystem\n"
        "system = MapSystem(lambda z, x: z / 2, lambda x, g: torch.randn(len(x), 1, generator=g))\n"
        "def make():\n    return system\nnumber = 3\n"
    )
    for name in ("system", "make"):
        system = load_system(f"{file}:{name}")
        assert torch.equal(system.step(torch.ones(1, 1), None), torch.full((1, 1), 0.5))
        assert system.provenance["checkpoint"] == f"mine.py:{name}"
    assert is_own("a/b.py:system") and not is_own("step_500") and not is_own("hf://a/b.py")
    with pytest.raises(ValueError, match="has no 'nothing'"):
        load_system(f"{file}:nothing")
    with pytest.raises(ValueError, match="number: system must have the methods"):
        load_system(f"{file}:number")
    with pytest.raises(ValueError, match=r"gone.py: no such file; expected FILE.py:NAME"):
        load_system(f"{tmp_path}/gone.py:system")
    file.write_text(
        "import torch\ncell = torch.nn.GRUCell(4, 8)\ndef step(z, x):\n    return z\nboom = lambda: 1 / 0\n"
    )
    with pytest.raises(
        ValueError, match=r"GRUCell has no encode, .* make one of a module with core.from_module"
    ):
        load_system(f"{file}:cell")
    with pytest.raises(ValueError, match="step: fails when it is called without arguments: TypeError"):
        load_system(f"{file}:step")
    with pytest.raises(
        ValueError, match="boom: fails when it is called without arguments: ZeroDivisionError"
    ):
        load_system(f"{file}:boom")
    for text, reason in (("1 / 0", "ZeroDivisionError"), ("raise SystemExit(0)", "SystemExit: 0")):
        file.write_text(f"{text}\n")
        with pytest.raises(ValueError, match=f"fails when it is run: {reason}"):
            load_system(f"{file}:system")


def test_a_class_of_systems_is_called_and_one_that_takes_no_attributes_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nimport torch\n"
        "class Own:\n"
        "    provenance = None\n"
        "    def encode(self, inputs): return inputs\n"
        "    def initial(self, x, generator): return torch.randn(len(x), 1, generator=generator)\n"
        "    def step(self, z, x, noise=None): return z / 2\n"
        "    def decode(self, z, x): return (z > 0).long()\n"
        "@dataclass(frozen=True)\nclass Frozen(Own):\n    rate: float = 0.5\n"
    )
    system = load_system(f"{file}:Own")
    assert system.step(torch.ones(1, 1), None) == 0.5 and system.provenance["checkpoint"] == "mine.py:Own"
    with pytest.raises(ValueError, match=r"Frozen takes no attributes, .*: leave out frozen=True"):
        load_system(f"{file}:Frozen")


OWN = '''"""A damped rotation that reads the first cell, and answers a whole board."""
import torch
from eqrlab.core import from_module

system = from_module(
    torch.nn.Linear(8, 8),
    step=lambda net, z, x: 0.5 * torch.tanh(net(z)) + 0.1 * x,
    carry=lambda net, x, generator: torch.randn(len(x), 8, generator=generator),
    inputs=lambda net, tokens: tokens[:, :1].float(),
    readout=lambda net, z, x: (2 + (z[:, :1] > 0).long()).expand(-1, 36),
    task="sudoku6",
)
'''


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb",
    [
        "diagnose {} --limit 2 --restarts 4 --depth 8 --no-checks --quiet",
        "compare {} eqr-sudoku6 --limit 2 --restarts 2 --depth 8 --no-checks --no-local --quiet",
        "basins {} --limit 2 --half-width 0.4 --quiet",
        "spectrum {} --limit 1 --restarts 2 --depth 8 --quiet",
        "fixed-points {} --limit 1 --restarts 2 --depth 8 --quiet",
        "lyapunov {} --limit 1 --restarts 1 --depth 8 --quiet",
        "dynamics {} --limit 1 --restarts 2 --depth 8 --steps 20 --quiet",
        "scale {} --limit 2 --breadths 1,2 --depths 2,4 --quiet",
        "plane {} --resolution 8 --quiet",
        "fates {} --limit 2 --restarts 2 --quiet",
        "evaluate {} --limit 2",
    ],
    ids=lambda verb: verb.split()[0],
)
def test_every_verb_takes_a_system_of_a_file(verb, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from eqrlab.analyses.cli import cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    done = CliRunner().invoke(cli, verb.format("mine.py:system").split(), catch_exceptions=True)
    assert done.exit_code == 0, (done.output, done.exception)
    if verb.startswith("diagnose"):
        assert "mine.py:system" in (tmp_path / "out" / "report.html").read_text()


PROMPTS = """1 5 2 7 3
4 4 6 1 2
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", ["basins {} --half-width 0.4", "spectrum {} --restarts 2", "export {} --restarts 2 --depth 4 --out e.nc"],
    ids=lambda verb: verb.split()[0],
)  # fmt: skip
def test_tokens_of_no_task_are_read_and_what_is_right_is_not_known(verb, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from eqrlab.analyses.cli import cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN.replace("-1, 36", "-1, 1").replace('    task="sudoku6",\n', ""))
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    command = verb.format("mine.py:system --puzzles prompts.txt --quiet").split()
    done = CliRunner().invoke(cli, command, catch_exceptions=True)
    assert done.exit_code == 0, (done.output, done.exception)
    assert verb.startswith("export") or (
        "not known" in done.output and "wrong " not in done.output.split("answer")[1]
    )


def test_what_a_system_of_a_file_cannot_do_is_said_in_a_sentence(tmp_path):
    from eqrlab.analyses.commands.continuation import changed

    (tmp_path / "mine.py").write_text(OWN)
    system = load_system(f"{tmp_path}/mine.py:system")
    with pytest.raises(ValueError, match="family module has no damping: it cannot be followed over damping"):
        changed(system, "damping", 0.5)
