"""Options that verbs share."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
import torch
from click.testing import CliRunner

from eqrlab.analyses import options as opt
from eqrlab.analyses.cli import cli
from eqrlab.analyses.verbs import verbs


@pytest.fixture(params=[False, True], ids=["processor", "cuda"])
def cuda(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return request.param


def test_auto_is_cuda_where_there_is_one(cuda):
    assert opt.device_named("auto") == ("cuda" if cuda else "cpu")
    assert opt.device_named("cpu") == "cpu"


def test_cuda_is_refused_where_there_is_none(cuda):
    if cuda:
        with pytest.raises(click.BadParameter, match="there is no device 'cuda:99' here"):
            opt.device_named("cuda:99")
    else:
        with pytest.raises(click.BadParameter, match="no CUDA device here"):
            opt.device_named("cuda:1")


def test_mps_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(click.BadParameter, match=r"no GPU of Apple here; use --device cpu"):
        opt.device_named("mps")


@pytest.mark.parametrize("verb", ["diagnose", "spectrum", "dynamics", "evaluate", "export"])
def test_an_unknown_device_is_wrong_usage(verb, tmp_path):
    extra = ["--out", str(tmp_path / "runs.nc")] if verb == "export" else []
    result = CliRunner().invoke(cli, [verb, "eqr-sudoku6", "--device", "abacus", *extra])
    assert (
        result.exit_code == 2 and "'abacus' is no device; choose from auto, cpu, cuda, mps" in result.output
    )


@pytest.mark.parametrize(
    "verb", [v for v in verbs() if v != "export"]
)  # an export may take the device of another one
def test_every_verb_chooses_its_device_alike(verb):
    command = cli.get_command(click.Context(cli), verb)
    assert [p.default for p in command.params if p.name == "device"] in ([], ["auto"])


def test_no_option_takes_a_number_that_is_not_finite():
    """Of verbs in groups too; `nan` compares with nothing, so that a range alone lets it pass."""
    reals = 0
    for context in commands_of(cli):
        for option in context.command.params:
            if isinstance(option.type, click.types.FloatParamType):
                reals += 1
                for text in ("nan", "inf"):
                    with pytest.raises(click.BadParameter, match=r"not a finite number|is not in the range"):
                        option.type.convert(text, option, context)
    assert reals > 10


def commands_of(command):
    """Yield a context of every command in a group."""
    context = click.Context(command)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from commands_of(command.get_command(context, name))
    else:
        yield context


def test_numbers_come_sorted_and_once():
    assert opt.Numbers().convert("16,4,16", None, None) == [4, 16]


def test_options_together_are_listed_in_their_order():
    @click.command()
    @opt.together(opt.quiet, opt.seed(), opt.out())
    def command():
        pass

    assert [p.name for p in command.params] == ["quiet", "seed", "out"]


@pytest.mark.parametrize("asked", ["--help", "--version"])
def test_help_and_version_load_neither_torch_nor_arrays(asked):
    code = (
        "import sys; from eqrlab.analyses.cli import cli; cli([sys.argv[1]], standalone_mode=False); "
        "print(sorted({'torch', 'numpy', 'xarray', 'scipy', 'matplotlib', 'tqdm'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "[]", run.stderr


def test_a_diagnosis_loads_neither_distributions_nor_the_compiler_of_torch():
    """Half a second each, in a command that takes a few."""
    code = (
        "import sys, torch; from eqrlab.analyses.diagnose import diagnose; from eqrlab.core import load; "
        "from eqrlab.datasets import bundled; few = bundled('sudoku6').take(slice(2)); "
        "diagnose(load('eqr-sudoku6').requires_grad_(False), few.inputs, labels=few.labels, restarts=4, depth=8, "
        "local=True, checks=True); print({'scipy.stats', 'matplotlib', 'sympy', 'torch._dynamo'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.stdout.strip() == "set()", run.stderr
