"""The report of a diagnosis or a comparison: one self-contained HTML file, made from the archive alone."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import xarray as xr
from markupsafe import Markup

from eqrlab import attractors as at
from eqrlab.analyses.figures.style import COLOURS
from eqrlab.analyses.report.comparison import comparison_view
from eqrlab.analyses.report.diagnosis import diagnosis_view
from eqrlab.analyses.report.markdown import report_markdown
from eqrlab.analyses.studies import checks
from eqrlab.analyses.studies.borders import GROUPS as BORDERS
from eqrlab.analyses.text import verdicts as wording
from eqrlab.analyses.text.names import distinct
from eqrlab.analyses.text.vocabulary import MODE_NAMES
from eqrlab.attractors.results import archive
from eqrlab.core.files import replaced_whole
from eqrlab.datasets import boards

Groups = dict[str, xr.Dataset]
KNOWN = (
    "ensemble",
    "basins",
    "alignment",
    "modes",
    "signals",
    "disguises",
    "spectrum",
    "scaling",
    *checks.GROUPS,
    *BORDERS,
)


def write_report(path: str | Path, out: str | Path, kind: str = "html") -> None:
    """Write the report of an archive, whole or not at all.

    Parameters
    ----------
    path
        The archive, as `attractors.results.archive.write` leaves it.
    out
        The file.
    kind
        "html", or "md" for Markdown.

    Raises
    ------
    ValueError
        When the archive is missing, unreadable or without an ensemble.
    OSError
        When the report cannot be written.
    """
    tree = archive.read(path, complete=True)
    with archive.refused(path, "cannot be reported"):  # values each of which may be, and not all together
        text = FORMATS[kind](tree)
    with replaced_whole(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render_markdown(tree: xr.DataTree) -> str:
    """Return the report of an archive as Markdown, see `render`."""
    return report_markdown(_group(tree, "compare"), checkpoints(tree), _group(tree, "recipes"))


def _group(tree: xr.DataTree, name: str) -> xr.Dataset | None:
    return tree[name].to_dataset() if name in tree.children else None


def render(tree: xr.DataTree) -> str:
    """Return the report of an archive as HTML.

    Parameters
    ----------
    tree
        The archive; groups it does not know are left out.

    Raises
    ------
    ValueError
        When there is no ensemble in it.
    """
    results = checkpoints(tree)
    views = [diagnosis_view(number, name, groups) for number, (name, groups) in enumerate(results.items(), 1)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"figures": _figures, "split": _split}
    compared = _group(tree, "compare")
    return environment.get_template("report.html").render(
        views=views,
        comparison=None if compared is None else comparison_view(compared, results, _group(tree, "recipes")),
        summary=wording.summary_rows(results),
        colours=COLOURS,
        board_style=Markup(boards.LOOKS.read_text(encoding="utf-8")),
        mode_names=MODE_NAMES,
    )


FORMATS = {"html": render, "md": render_markdown}


def checkpoints(tree: xr.DataTree) -> dict[str, Groups]:
    """Return the groups of every checkpoint in an archive, by its name.

    Groups that can be derived from the ensemble are, where they are missing and correctness is known.

    Raises
    ------
    ValueError
        When there is no ensemble in it.
    """
    nodes = [tree, *(child for name, child in tree.children.items() if name not in KNOWN)]
    results: dict[str, Groups] = {}
    for node in nodes:
        if "ensemble" not in node.children:
            continue
        groups = {name: node[name].to_dataset() for name in KNOWN if name in node.children}
        ensemble = groups["ensemble"]
        for derived, derive in (
            ("basins", at.basins), ("alignment", at.alignment), ("modes", at.modes), ("signals", at.signals),
        ):  # fmt: skip
            if derived not in groups and (derived == "basins" or "correct" in ensemble):
                groups[derived] = derive(ensemble)
        results[distinct(checkpoint_name(node, ensemble), results)] = groups
    if not results:
        raise ValueError(
            "the archive has no group named ensemble; expected one that holds runs, as those of diagnose, compare, "
            "scale, export, fates and dynamics do"
        )
    return results


def checkpoint_name(node: xr.DataTree, ensemble: xr.Dataset) -> str:
    """Return what to call a checkpoint: its recorded name, its group's, its file's, or its family's."""
    stem = Path(str(ensemble.attrs.get("checkpoint", "none"))).stem
    family = str(ensemble.attrs.get("family", "system"))
    return str(ensemble.attrs.get("name") or node.name or (stem if stem != "none" else family))


def _split(text: str) -> Markup:
    """Set a value's interval apart, as in "58 % [31, 84]", and keep either on one line."""
    value, bracket, rest = text.partition(" [")
    html = Markup('<span class="nb">{}</span>').format(value.replace(" %", "\u00a0%"))
    return html + Markup(' <span class="ci">[{}</span>').format(rest) if bracket else html


def _figures(text: str) -> str:
    """Keep numbers and their percent sign, and intervals, on one line."""
    text = text.replace(" %", "\u00a0%").replace("% [", "%\u00a0[")
    return re.sub(r"\[[^\]]*\]", lambda m: m[0].replace(" ", "\u00a0"), text)
