"""Draws the pictures of the gallery with the functions it shows: the build of the guide runs it, half a minute."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

HERE = Path(__file__).parent
PICTURES = HERE / "_build" / "gallery"


def draw(page: Path = HERE / "gallery.md", folder: Path = PICTURES) -> list[Path]:
    """Run the python blocks of a page from top to bottom; each that ends in a plot is saved under that plot's name.

    Returns
    -------
    list of pathlib.Path
        The pictures, one for each call `plots.plot_x(...)` that begins a line.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, object] = {}
    made = []
    for block in re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        exec(compile(block, str(page), "exec"), names)
        called = re.search(r"^plots\.(plot_\w+)", block, re.MULTILINE)
        if called:
            made.append(folder / f"{called[1]}.png")
            pyplot.gcf().savefig(made[-1], dpi=100, facecolor="white", bbox_inches="tight")
        pyplot.close("all")
    return made


if __name__ == "__main__":
    draw()
