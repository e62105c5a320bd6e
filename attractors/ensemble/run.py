"""Run: many restarts of some puzzles, described once; later analyses of the ensemble start from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, Unpack, get_type_hints

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eqrlab.attractors.ensemble.arguments import (
    identifiers_of,
    names_of,
    require_integers,
    require_same_puzzles,
    require_same_system,
    tokens_of,
    with_noise,
)
from eqrlab.attractors.ensemble.batches import run_in_batches
from eqrlab.attractors.ensemble.contract import GIVEN, OWN, Law, as_starts, check_system, require_law
from eqrlab.attractors.ensemble.judge import Judge, Oracle
from eqrlab.attractors.ensemble.options import RunOptions, refuse_unknown
from eqrlab.attractors.ensemble.place import Place
from eqrlab.attractors.ensemble.recipe import KEEP, Recipe
from eqrlab.attractors.ensemble.runs import tolerances_of
from eqrlab.attractors.ensemble.schedule import RESIDUALS
from eqrlab.attractors.ensemble.to_dataset import assemble
from eqrlab.attractors.fates.fate import Tolerances
from eqrlab.attractors.fates.records import digest
from eqrlab.core import System
from eqrlab.core.models.contract import require_system
from eqrlab.core.shown import Facts, Shown


class Run(Shown, Recipe):
    """Many restarts of some puzzles: a system, its inputs, and everything the result depends on.

    `Run.of` checks the arguments of `sample`.  `Run.of_ensemble` recovers the arguments with which an ensemble was
    sampled, so that a later analysis uses the same ones without being given them again.

    Examples
    --------
    >>> import torch
    >>> from eqrlab.core import MapSystem
    >>> system = MapSystem(lambda z, x: z / 2, lambda x, g: torch.randn((len(x), 3), generator=g, dtype=torch.float64))
    >>> run = Run.of(system, torch.zeros(1, 1, dtype=torch.long), restarts=4, depth=60)
    >>> run.sample().fate.values.tolist(), run.with_(depth=8).sample().sizes["step"]
    ([[0, 0, 0, 0]], 8)
    """

    def _facts(self) -> Facts:
        judged = "not judged" if self.judge.name == "none" else f"judged by {self.judge.name}"
        lines = {
            "system": repr(self.system).splitlines()[0],
            "puzzles": f"{len(self.inputs):,} of {self.inputs.shape[1]} tokens, answers {judged}",
            "runs": f"{self.restarts:,} restarts of each, depth {self.depth:,}, noise {self.noise:g}, seed {self.seed}",
            "starts": self.law,
            "kept": ", ".join(self.keep),
        }
        return Facts("Run, for `sample` and the analyses after it", lines)

    @classmethod
    def of(cls, system: System, inputs: Tensor | np.ndarray, **options: Unpack[RunOptions]) -> Self:
        """Return the run that `sample` would do with these arguments.

        Raises
        ------
        ValueError
            For arguments of the wrong shape, type or range, naming the argument.
        TypeError
            For an unknown option.
        """
        refuse_unknown(options, list(get_type_hints(RunOptions)), "Run.of")
        require_system(system)
        tokens = tokens_of(inputs, "inputs")
        labels, initial = options.get("labels"), as_starts(options.get("initial"))
        solutions = None if labels is None else tokens_of(labels, "labels").numpy()
        if solutions is not None and len(solutions) != len(tokens):
            raise ValueError(
                f"labels must have a row for each of the {len(tokens)} puzzles, got {len(solutions)}"
            )
        numbers = {"restarts": options.get("restarts", 64), "depth": options.get("depth", 64)}
        require_integers(**numbers)
        numbers["first_restart"] = options.get("first_restart", 0)
        require_integers(0, first_restart=numbers["first_restart"])
        keep = names_of(options.get("keep", ()), KEEP, "keep")
        if "logit_delta" in keep and getattr(system, "logits", None) is None:
            raise ValueError(
                "keep 'logit_delta' needs a system with a method logits(z, x), this one has none"
            )
        if not (initial is None or isinstance(initial, Tensor) or callable(initial)):
            raise ValueError(
                "initial must be starts (puzzle, restart, *state_shape), a callable (x, generator) -> z or None, got a "
                f"{type(initial).__name__}"
            )
        expected = len(tokens), numbers["restarts"]
        if isinstance(initial, Tensor) and tuple(initial.shape[:2]) != expected:
            raise ValueError(
                f"initial must begin with (puzzle, restart) = {expected}, got {tuple(initial.shape[:2])}"
            )
        identifiers = identifiers_of(options.get("identifiers"), len(tokens))
        residuals = options.get("residuals", "all")
        if residuals not in RESIDUALS:
            raise ValueError(f"residuals {residuals!r} unknown; choose from {', '.join(RESIDUALS)}")
        system, noise = with_noise(system, options.get("noise"))
        place = Place.of(system, options.get("device"), options.get("dtype"))
        run = cls(
            system=place.bring(system), inputs=tokens, identifiers=identifiers,
            judge=Judge(solutions, options.get("oracle")),
            seed=int(options.get("seed", 0)), noise=noise, initial=initial, place=place,
            residuals=residuals, keep=tuple(dict.fromkeys(("summary", *keep))),
            retire=bool(options.get("retire", False)), tolerances=options.get("tolerances") or Tolerances(),
            **{k: int(v) for k, v in numbers.items()},
        )  # fmt: skip
        check_system(
            run.system, tokens, identifiers, initial=initial, restarts=run.restarts,
            first_restart=run.first_restart, seed=run.seed, noisy=noise > 0, place=place,
        )  # fmt: skip
        return run

    @classmethod
    def of_ensemble(
        cls,
        system: System,
        ensemble: xr.Dataset,
        *,
        inputs: Tensor | np.ndarray | None = None,
        identifiers: Tensor | np.ndarray | None = None,
        oracle: Oracle | None = None,
        initial: Law | None = None,
        device: str | torch.device | None = None,
    ) -> Self:
        """Return the run with which an ensemble was sampled.

        Parameters
        ----------
        system
            The one that was sampled.
        ensemble
            From `sample`, or read from an archive.
        inputs
            Its puzzles, to be compared with those of the ensemble; None takes the latter.
        identifiers
            Likewise.
        oracle, initial
            Required if the ensemble was judged by an oracle, or drawn from a law that is neither the system's own nor a
            method of it; their names must agree with those that the ensemble records.
        device
            Where to compute.

        Raises
        ------
        ValueError
            For another system, other puzzles, another law or another oracle than the ensemble records.
        """
        tokens = tokens_of(ensemble.inputs.values, "inputs")
        given = tokens if inputs is None else tokens_of(inputs, "inputs")
        known = require_same_puzzles(ensemble, given, identifiers_of(identifiers, len(given)))
        recorded = ensemble.attrs
        require_same_system(system, ensemble, "the ensemble was sampled from")
        system, noise = with_noise(system, float(recorded["noise"]))
        place = Place.of(system, device, str(recorded["dtype"]))
        labels = ensemble.labels.values.astype(np.int64) if "labels" in ensemble else None
        return cls(
            system=place.bring(system), inputs=tokens, identifiers=known,
            judge=_same_judge(ensemble, labels, oracle),
            restarts=ensemble.sizes["restart"], depth=ensemble.sizes["step"], seed=int(recorded["seed"]),
            noise=noise, initial=_same_law(system, ensemble, initial),
            tolerances=tolerances_of(ensemble), place=place,
            first_restart=int(ensemble.restart.values[0]), residuals=str(recorded.get("residuals", "all")),
        )  # fmt: skip

    def sample(
        self, *, batch_size: int | None = None, progress: bool | Callable[[int, int], None] = False
    ) -> xr.Dataset:
        """Return the ensemble, see `sample`; results do not depend on the batch size, to rounding.

        Raises
        ------
        ValueError
            For a batch size below 1, or starts and answers of the wrong kind.
        """
        shorten = lambda rows, records: digest(records, self.depth, self.tolerances)
        records = run_in_batches(self, np.arange(self.rows), batch_size, progress, shorten)
        return assemble(self, records)


def _same_judge(ensemble: xr.Dataset, labels: np.ndarray | None, oracle: Oracle | None) -> Judge:
    """Return the judge that was used for an ensemble."""
    recorded = str(ensemble.attrs.get("oracle", "none"))
    judge = Judge(labels, oracle)
    if oracle is None and recorded not in ("labels", "none") and "correct" in ensemble:
        raise ValueError(f"the ensemble was judged by the oracle {recorded}: pass it as oracle")
    if oracle is not None and judge.name != recorded:
        raise ValueError(f"the ensemble was judged by {recorded}, not by the oracle {judge.name}")
    return judge


def _same_law(system: System, ensemble: xr.Dataset, initial: Law | None) -> Law | None:
    """Return the restart law of an ensemble; None for the system's own, or for starts that were given."""
    recorded = str(ensemble.attrs.get("initial_law", OWN))
    if initial is None and recorded not in (OWN, GIVEN):
        initial = getattr(system, recorded, None)  # such as Reasoner.random_initial
    if recorded != GIVEN or initial is not None:
        require_law(ensemble, initial)
    return initial
