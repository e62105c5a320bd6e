"""Plots of results: each takes a dataset and `ax=None`, draws, and returns the axes.

Examples
--------
>>> import torch
>>> from eqrlab import attractors, plots
>>> from eqrlab.core import MapSystem
>>> start = lambda x, g: torch.randn((len(x), 1), generator=g, dtype=torch.float64)
>>> tent = MapSystem(lambda z, x: torch.tanh(2 * z), start)
>>> ensemble = attractors.sample(tent, torch.zeros(1, 1, dtype=torch.long), restarts=20, depth=32)
>>> plots.plot_residuals(ensemble).get_xlabel()
'outer step'
"""

from eqrlab.analyses.figures.comparison import plot_differences, plot_scatter
from eqrlab.analyses.figures.diagnosis import plot_basins, plot_modes
from eqrlab.analyses.figures.fates import plot_fates, plot_outcomes
from eqrlab.analyses.figures.planes import plot_plane
from eqrlab.analyses.figures.runs import plot_alignment, plot_auc, plot_phase, plot_residuals
from eqrlab.analyses.figures.scaling import plot_heat, plot_scaling
from eqrlab.analyses.figures.signals import plot_risk_coverage
from eqrlab.analyses.figures.spectrum import plot_spectrum
from eqrlab.analyses.figures.training import plot_training

__all__ = [
    "plot_alignment",
    "plot_auc",
    "plot_basins",
    "plot_differences",
    "plot_fates",
    "plot_heat",
    "plot_modes",
    "plot_outcomes",
    "plot_phase",
    "plot_plane",
    "plot_residuals",
    "plot_risk_coverage",
    "plot_scaling",
    "plot_scatter",
    "plot_spectrum",
    "plot_training",
]
