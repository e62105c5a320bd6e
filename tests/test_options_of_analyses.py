"""Options of analyses: closed, described, and the same wherever they have the same name."""

from __future__ import annotations

import inspect
import sys
import typing

import pytest

from eqrlab import attractors as at

ANALYSES = {
    name: function
    for name, function in vars(at).items()
    if inspect.isfunction(function)
    and any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
}


def bundle_of(function):
    """Return the typed bundle of a function's options."""
    (name,) = (p.name for p in inspect.signature(function).parameters.values() if p.kind is p.VAR_KEYWORD)
    (bundle,) = typing.get_args(typing.get_type_hints(function)[name])
    return bundle


def lineage(bundle):
    """Return a bundle and those it can be made of: of its module, all whose options it has."""
    near = vars(sys.modules[bundle.__module__]).values()
    parts = [
        b
        for b in near
        if typing.is_typeddict(b) and b.__annotations__.keys() <= bundle.__annotations__.keys()
    ]
    return [bundle, *parts]


def needed(function):
    """Return a None for each argument that must be given."""
    given = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    places = [None for p in given if p.kind is p.POSITIONAL_OR_KEYWORD]
    return places, {p.name: None for p in given if p.kind is p.KEYWORD_ONLY}


def test_most_analyses_have_their_options_in_bundles():
    assert {"sample", "plane", "spectrum", "continuation", "estimate_basins", "critical_shock"} <= set(
        ANALYSES
    )


@pytest.mark.parametrize("name", [n for n in sorted(ANALYSES) if n != "export"])
def test_an_unknown_option_is_refused_with_those_there_are(name):
    places, named = needed(ANALYSES[name])
    with pytest.raises(
        TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'sede'; its options are"
    ):
        ANALYSES[name](*places, sede=1, **named)


def test_the_options_named_are_all_that_a_function_has():
    with pytest.raises(
        TypeError, match=r"'restart'; its options are labels, identifiers, restarts, .*batch_size, progress$"
    ):
        at.sample(None, None, restart=4)


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_every_option_is_described(name):
    parts = [ANALYSES[name], at.sample, *lineage(bundle_of(ANALYSES[name]))]
    text = " ".join(str(part.__doc__) for part in parts)
    missing = [option for option in bundle_of(ANALYSES[name]).__annotations__ if option not in text]
    assert not missing


def test_options_of_one_name_have_one_type():
    types = {}
    for function in ANALYSES.values():
        for option, kind in typing.get_type_hints(bundle_of(function)).items():
            if option not in (
                "initial",
                "directions",
            ):  # starts or a law; a number of pushes or the sides of a plane
                assert types.setdefault(option, kind) == kind, option
