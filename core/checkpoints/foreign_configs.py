"""Configurations of other trainers: where they are stored, in which form, and their names for the official options."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eqrlab.core.checkpoints.torchfile import Opaque
from eqrlab.core.errors import CheckpointError
from eqrlab.core.messages import brief, did_you_mean, one_line

INSIDE = ("config", "cfg", "conf", "hyper_parameters", "hparams", "model_config", "model_args", "args")
BESIDE = ("all_config.yaml", "config.yaml", "config.json", "hparams.yaml", "all_config.json", "args.json",
          ".hydra/config.yaml")  # fmt: skip
ABOVE = ("all_config.yaml", "hparams.yaml", "config.json")  # in the folder above
_SECTIONS = ("arch", "model", "network", "architecture", "model_config", "net", *INSIDE)
_TELLING = (
    "num_heads",
    "H_cycles",
    "L_cycles",
    "hidden_size",
)  # a section that has one of these is the network's
# Official option to what others call it, the commonest first; of `expansion` others mean other things.
ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_dim", "d_model", "dim", "embed_dim", "n_embd", "model_dim"),
    "num_heads": ("n_heads", "n_head", "nhead", "heads", "num_attention_heads"),
    "H_cycles": ("h_cycles", "n_H_cycles", "outer_cycles", "T"),
    "L_cycles": ("l_cycles", "n_L_cycles", "inner_cycles", "n"),
    "H_layers": ("h_layers", "n_H_layers"),
    "L_layers": (
        "l_layers",
        "n_L_layers",
        "num_layers",
        "n_layers",
        "n_layer",
        "num_hidden_layers",
        "layers",
    ),
    "num_layers": ("n_layers", "n_layer", "num_hidden_layers", "layers"),
    "halt_max_steps": ("n_supervision", "N_sup", "max_supervision_steps", "halt_max"),
    "halt_exploration_prob": ("halt_exploration", "exploration_prob"),
    "pos_encodings": ("pos_encoding", "positional_encoding", "position_encoding"),
    "rope_theta": ("rope_base", "rotary_theta"),
    "rms_norm_eps": ("norm_eps", "layer_norm_eps", "rms_eps"),
    "seq_len": ("input_seq_len", "seq_length"),
    "max_seq_len": ("context_length",),
    "lambda_": ("lambda", "lam"),
    "pre_norm": ("norm_first", "prenorm"),
}
_POSITIONS = {"rotary": "rope", "rope1d": "rope", "rope_1d": "rope", "rope_2d": "rope2d", "None": "none"}
_MOST = 1 << 17  # bytes; official configurations have some 3,000
_MOST_VALUES = 10_000  # values of a configuration, however its parts are shared
_DEPTH = 8
_REFERENCE = re.compile(r"\$\{(\.*)(\w[\w.]*)\}")  # to another option; resolvers such as ${oc.env:X} are none
_FAULTS = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError,
           TypeError, ValueError)  # fmt: skip


def inside(content: Mapping[Any, Any]) -> dict[str, Any] | None:
    """Return the configuration inside a file, as plain values, or None; one with options of a network comes first."""
    found = [plain(content[key]) for key in INSIDE if key in content]
    found = [config for config in found if isinstance(config, dict) and config]
    return next((config for config in found if has_network(config)), found[0] if found else None)


def has_network(config: dict[str, Any]) -> bool:
    """Return whether a configuration has options of such a network."""
    return isinstance(config.get("arch"), dict) or _path(config, 3) is not None


def beside(path: Path) -> dict[str, Any]:
    """Read the configuration beside a checkpoint, or in the folder above; of a link, also where the file itself is.

    Raises
    ------
    CheckpointError
        If it is not a mapping.
    FileNotFoundError
        When there is none.
    """
    places: list[Path] = []
    for folder in (path.absolute().parent, path.resolve().parent):
        places += [folder / name for name in BESIDE] + [folder.parent / name for name in ABOVE]
    for candidate in places:
        if candidate.is_file():
            return read_config(candidate, f"{candidate.name} beside it")
    raise FileNotFoundError(
        "no configuration inside, and no all_config.yaml or config.yaml beside it (nor config.json, hparams.yaml): "
        "put it there, or give it with --config FILE or --set num_heads=8 (load(..., config=...))"
    )


def read_config(path: Path, called: str) -> dict[str, Any]:
    """Read a configuration from a YAML or JSON file; tags of Python in it stay names.

    Raises
    ------
    CheckpointError
        When it cannot be read, or is no mapping.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST + 1)
        if len(text) > _MOST:
            raise ValueError(f"more than {_MOST} bytes")
        config = (
            json.loads(text, object_pairs_hook=_once) if path.suffix == ".json" else yaml.load(text, _Yaml)
        )
    except _FAULTS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            told = ", ".join(part for part in (error.context, error.problem) if part)
            reason = f"line {error.problem_mark.line + 1}: {told}"
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise CheckpointError(f"{called} is not readable as {kind} ({reason})") from None
    config = plain(config)
    if not isinstance(config, dict):
        raise CheckpointError(f"{called} must be a mapping of options")
    return config


def _twice(option: str) -> str:
    return f"{brief(option)} is there twice"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON whose keys are there once."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(_twice(key))
        found[key] = value
    return found


class _Yaml(yaml.SafeLoader):
    """YAML of plain values without merge keys, with which a few lines could expand to more than fits into memory."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(
                None, None, "merge keys (<<) are not read", node.start_mark
            )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys are there once."""
        seen: set[str] = set()
        pairs = node.value if isinstance(node, yaml.MappingNode) else []  # a tag may say that a list is one
        for key in (k for k, _ in pairs if isinstance(k, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, _twice(key.value), key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def opaque(self, suffix: str, node: yaml.Node) -> Any:
        """Return the parts of a value with a tag, such as a Python object; nothing is looked up or called."""
        made = Opaque(None)
        yield made  # first, so that parts may refer to the whole
        if suffix.startswith("name:"):  # of a function or a dtype
            made.state = suffix.rpartition(".")[2]
        elif isinstance(node, yaml.MappingNode):
            made.state = self.construct_mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            made.state = self.construct_sequence(node)
        elif isinstance(node, yaml.ScalarNode):
            made.state = self.construct_scalar(node)


# Numbers such as 1e-3, which YAML 1.1 takes for text; trainers that use OmegaConf read them as numbers.
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
_Yaml.add_multi_constructor("tag:yaml.org,2002:python/", _Yaml.opaque)
_Yaml.add_multi_constructor("!", _Yaml.opaque)


class _Budget:
    """A limit on the number of values taken from a configuration, whose shared parts could expand without end."""

    def __init__(self) -> None:
        self.left = _MOST_VALUES

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise CheckpointError(f"the configuration has more than {_MOST_VALUES} values")


# How objects of classes that hold options keep them: plain classes and dataclasses in their state; pydantic, omegaconf
# and ml_collections one deeper.
_HELD_BY = ("__dict__", "_content", "_val", "_fields")


def plain(value: Any, depth: int = _DEPTH, budget: _Budget | None = None) -> Any:
    """Return a value of a file with objects of foreign classes (a Namespace, a dataclass) replaced by their content.

    Notes
    -----
    Values deeper than 8 levels, and objects without known content, stay as they are: they cannot be options.
    """
    budget = budget or _Budget()
    budget.take()
    if isinstance(value, Opaque):
        held = _held(value)
        return value if held is value or not depth else plain(held, depth - 1, budget)
    if not depth:
        return value
    if isinstance(value, dict):
        return {k: plain(v, depth - 1, budget) for k, v in value.items() if isinstance(k, str)}
    if isinstance(value, list | tuple):
        return [plain(v, depth - 1, budget) for v in value]
    return value


def _held(value: Opaque) -> Any:
    """Return the content of an object of a foreign class, or the object if its content is not known."""
    state = value.state
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # of a class with slots
        state = state[1] if state[0] is None else state[0]
    if isinstance(state, dict):
        return next((state[key] for key in _HELD_BY if key in state), value.items or state)
    if value.items:
        return value.items
    arguments = value.arguments
    if state is None and isinstance(arguments, tuple) and len(arguments) == 1:
        return arguments[0] if isinstance(arguments[0], str | int | float) else value  # an Enum
    return value if state is None else state


def _resolved(value: Any, above: tuple[Any, ...] = ()) -> Any:
    """Return a value with references of OmegaConf, ${arch.hidden_size} or ${.hidden_size}, replaced by their options.

    `above` are the mappings around the value, the whole configuration first.  What leads nowhere, or not to a single
    option, stays text.
    """
    if isinstance(value, dict) and len(above) < _DEPTH:
        return {name: _resolved(option, (*above, value)) for name, option in value.items()}
    found = value
    for _ in range(_DEPTH):  # a reference may lead to another
        reference = _REFERENCE.fullmatch(found) if isinstance(found, str) else None
        if reference is None:
            return value if isinstance(found, dict | list) else found
        dots = len(reference[1])
        path = above[: len(above) - dots + 1] if dots else above[:1]
        for name in reference[2].split("."):
            if not path or not isinstance(path[-1], dict) or name not in path[-1]:
                return value
            path = (*path, path[-1][name])
        above, found = path[:-1], path[-1]
    return value


def sectioned(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the options of the network under `arch`, and those around them at its top.

    References to other options, as Hydra keeps them in `.hydra/config.yaml`, are replaced by their values.

    Raises
    ------
    CheckpointError
        When no part has options of such a network.
    """
    config = _resolved(config)
    if isinstance(config.get("arch"), dict):
        return config
    path = _path(config, 3)
    if path is None:
        raise CheckpointError(
            f"the configuration has no 'arch' section, and no options {', '.join(_TELLING)} at its top"
        )
    around = path[:-1] or path
    return {**{name: value for part in around for name, value in part.items()}, "arch": path[-1]}


def _path(config: dict[str, Any], depth: int) -> list[dict[str, Any]] | None:
    """Return the mappings from a configuration down to the one with options of the network."""
    names = {n for telling in _TELLING[:3] for n in (telling, *ALIASES[telling])}
    if names & set(config):
        return [config]
    parts = (config[name] for name in _SECTIONS if depth and isinstance(config.get(name), dict))
    below = next((found for part in parts if (found := _path(part, depth - 1)) is not None), None)
    return None if below is None else [config, *below]


def official_names(arch: dict[str, Any], family: str) -> tuple[dict[str, Any], list[str]]:
    """Give the options of a network their official names; return them, and a description of the renamed ones."""
    options, said = dict(arch), []
    for name, others in ALIASES.items():
        if name in options or (
            (name == "num_layers") != (family == "urm") and name in ("num_layers", "L_layers")
        ):
            continue
        other = next((o for o in others if o in options), None)
        if other is not None:
            options[name] = options.pop(other)
            said.append(f"{name} from the option {other}")
    positions = options.get("pos_encodings", "")
    if isinstance(positions, str) and positions in _POSITIONS:
        options["pos_encodings"] = _POSITIONS[positions]
    return options, said


def parse_setting(text: str) -> tuple[str, Any]:
    """Return name and value of a setting KEY=VALUE; the value is read as YAML: a number, true, text.

    Raises
    ------
    ValueError
        If the text is not KEY=VALUE.

    Examples
    --------
    >>> parse_setting("H_cycles=3")
    ('H_cycles', 3)
    """
    name, equals, value = text.partition("=")
    try:
        read = yaml.load(value, _Yaml)
    except _FAULTS:
        read = None
    if not equals or not name.strip() or not isinstance(read, str | int | float | bool):
        raise ValueError(f"a setting KEY=VALUE such as H_cycles=3 is required, got {one_line(text, 80)!r}")
    return name.strip().removeprefix("arch."), read


def require_used(settings: Mapping[str, Any], known: set[str], what: str) -> None:
    """Refuse a setting that the model does not have.

    Raises
    ------
    CheckpointError
        Naming it.
    """
    for name in settings:
        if name not in known:
            near = did_you_mean(name, known) or f": {', '.join(sorted(known))}"
            raise CheckpointError(f"the setting {brief(name)} is no option of {what}{near}")
