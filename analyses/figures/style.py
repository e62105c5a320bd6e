"""The look of the figures, and their conversion to inline SVG that follows the page's light or dark scheme."""

from __future__ import annotations

import html
import inspect
import io
import re
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import matplotlib as mpl
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from eqrlab.attractors.statistics.intervals import stated_level
from eqrlab.core.files import replaced_whole

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = {
    "ink": "#1b1f24", "muted": "#5c6570", "rule": "#d8dce1", "card": "#fffffe",
    "right": "#0072b2", "wrong": "#d55e00", "none": "#8b929c",
    "mode-a": "#5b3a8c", "mode-b": "#cc79a7", "mode-c": "#e69f00", "mode-d": "#009e73", "mode-undecided": "#b3b9c2",
}  # fmt: skip
WIDTH = 5.0  # inches of a figure: texts of 11 points stay readable on a phone
SIZES: dict[
    Callable[..., Axes], Callable[..., tuple[float, float]]
] = {}  # of each plot, inches for its arguments
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "eqrlab", "savefig.transparent": True, "savefig.dpi": 200,
    "text.parse_math": False,  # names of checkpoints may hold $
    "figure.facecolor": "none", "axes.facecolor": "none", "font.size": 11.5, "axes.titlesize": 11.5,
    "axes.labelsize": 11.5, "xtick.labelsize": 11, "ytick.labelsize": 11, "legend.fontsize": 11,
    "axes.titlelocation": "left", "text.color": COLOURS["ink"], "axes.titlecolor": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"], "xtick.color": COLOURS["rule"], "ytick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["muted"], "ytick.labelcolor": COLOURS["muted"], "axes.edgecolor": COLOURS["rule"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.linewidth": 0.9, "legend.frameon": False,
    "legend.borderaxespad": 0.0, "legend.borderpad": 0.0, "legend.handletextpad": 0.4, "legend.columnspacing": 1.2,
    "legend.handlelength": 1.2, "hatch.linewidth": 0.7, "lines.solid_capstyle": "round",
}  # fmt: skip


# What a plot draws, by the name of its first argument: the function that returns it, and a variable it is known by.
SOURCES = {
    "alignment": ("attractors.alignment", "auc"),
    "basins": ("attractors.basins", "mass"),
    "comparison": ("analyses.compare.compare", "puzzle_value"),
    "ensemble": ("attractors.sample", "relative_residual"),
    "modes": ("attractors.modes", "landscape_share"),
    "outcomes": ("attractors.outcomes", "settled_of_wrong"),
    "plane": ("attractors.plane", "fraction_none"),
    "scaling": ("attractors.scaling", "nfe"),
    "signals": ("attractors.signals", "risk"),
    "spectrum": ("attractors.spectrum", "eigenvalue"),
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function under the common style."""

    @wraps(draw)
    def inside(*args, **kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inside


def write_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure on a white ground, as PNG or SVG by the end of its name, whole or not at all.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    kind = Path(path).suffix[1:]
    with mpl.rc_context(STYLE), replaced_whole(path) as temporary:
        data = {"metadata": {"Date": None}} if kind == "svg" else {}
        figure.savefig(temporary, format=kind, facecolor="white", transparent=False, **data)


def to_svg(figure: Figure, prefix: str, text: str) -> str:
    """Return a figure as inline SVG that follows the page's colours and fonts.

    Parameters
    ----------
    figure
        From one of the functions above.
    prefix
        Put before every id, so that several figures can stand on one page.
    text
        What the picture shows, for those who do not see it.
    """
    stream = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    size = " ".join(f"{72 * side:g}" for side in figure.get_size_inches())
    body = svg.partition("<svg ")[2].partition(">")[2]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r' d="([^"]*)"', lambda m: f' d="{_short(m[1])}"', body)
    body = body.replace("xlink:href=", "href=").replace(' transform="rotate(-0 ', ' data-drop="(')
    body = re.sub(r' data-drop="[^"]*"', "", body)
    body = re.sub(r"font-family:[^;\"]*;? ?", "", body)
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in referred else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", body)
    for name, value in COLOURS.items():
        body = body.replace(value, f"var(--{name})")
    body = re.sub(r"<defs>\s*</defs>", "", body)
    body = re.sub(r">\s+<", "><", body)
    return (
        f'<svg class="plot" viewBox="0 0 {size}" role="img" aria-label="{html.escape(text)}">{body.strip()}'
    )


def _short(path: str) -> str:
    """Round the coordinates of a path to a hundredth of a point and drop blanks."""
    path = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), path)
    return re.sub(r"\s*([MLQCzZ])\s*", r"\1", path).strip()


def plot(
    height: float | Callable[..., float], width: float = WIDTH
) -> Callable[[Callable], Callable[..., Axes]]:
    """Make a function that draws on `ax` one that takes `ax=None`, draws in the common style and returns the axes.

    Parameters
    ----------
    height, width
        Inches of the figure that is made where no axes are given; the height may depend on the arguments.

    Notes
    -----
    A figure of its own is one of pyplot, so that Jupyter shows it by itself.  The function refuses, with a ValueError
    that leaves no figure, what is not the kind of result named in `SOURCES`, and a puzzle that is not in it.
    """

    def size(*args: Any, **options: Any) -> tuple[float, float]:
        return width, height(*args, **options) if callable(height) else height

    def decorate(draw: Callable[..., object]) -> Callable[..., Axes]:
        signature = inspect.signature(draw)
        first = next(iter(signature.parameters))
        source, variable = SOURCES.get(first, ("", ""))

        @wraps(draw)
        def inside(*args: Any, ax: Axes | None = None, **options: Any) -> Axes:
            given = signature.bind_partial(*args, **options).arguments
            result: Any = given.get(first)
            if source and not (isinstance(result, xr.Dataset) and variable in result):
                raise ValueError(f"{draw.__name__} draws what {source} returns, and was given something else")
            if "puzzle" in given and given["puzzle"] not in range(result.sizes["puzzle"]):
                most = result.sizes["puzzle"] - 1
                raise ValueError(f"puzzle is a position from 0 to {most}, got {given['puzzle']!r}")
            figure = None if ax is not None else _own_figure(size(*args, **options))
            try:
                with mpl.rc_context(STYLE):
                    ax = ax if figure is None else figure.subplots()
                    draw(*args, ax=ax, **options)
            except ValueError:
                if figure is not None:
                    _discard(figure)
                raise
            return ax

        SIZES[inside] = size
        return inside

    return decorate


def _own_figure(size: tuple[float, float]) -> Figure:
    """Return a figure of pyplot.

    Not made under the common style: at its first figure Jupyter's backend makes pyplot interactive, by a setting that
    would be lost when the style ends, and no later figure would be shown.
    """
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=size, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    return figure


def _discard(figure: Figure) -> None:
    from matplotlib import pyplot

    pyplot.close(figure)


def in_percent(*axes: Axis) -> None:
    """Write the numbers of axes of shares in percent."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def band_key(found: xr.Dataset) -> Patch:
    """Return the entry of a legend for shaded intervals, of the confidence of a dataset."""
    label = f"band: {stated_level(found.attrs.get('confidence', 0.95))} interval"
    return Patch(facecolor=COLOURS["ink"], alpha=0.15, linewidth=0, label=label)


def figure_of(*plots: partial[Axes]) -> Figure:
    """Return plots, one below the other, each of its size, as a figure that pyplot does not keep, for a page or a file.

    Parameters
    ----------
    plots
        Functions made by `plot`, with what they draw: `partial(plot_modes, modes)`.
    """
    sizes = [SIZES[p.func](*p.args, **p.keywords) for p in plots]
    widths, heights = zip(*sizes, strict=True)
    with mpl.rc_context(STYLE):
        figure = Figure((max(widths), sum(heights)), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04)
        rows = figure.subplots(len(plots), 1, height_ratios=heights, squeeze=False)[:, 0]
        for draw, ax in zip(plots, rows, strict=True):
            draw(ax=ax)
    return figure
