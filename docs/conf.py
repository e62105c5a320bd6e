"""Sphinx configuration of the user guide: `make docs` builds it into docs/_build/html."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

import eqrlab

project = "eqrlab"
author = "The eqrlab developers"
copyright = author
version = release = eqrlab.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_click",
]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb"}  # pages of autosummary take the first
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # pages that are notebooks are run at every build
nb_execution_show_tb = True  # a cell that fails is a warning, which ends `make docs`
nb_execution_timeout = 600
nb_merge_streams = True

autosummary_generate = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "eqrlab"
html_static_path = ["static"]
html_css_files = ["guide.css"]
html_math_renderer = "mathml"  # drawn by the browser itself, so that the guide needs no network
html_show_sourcelink = False
default_role = "code"  # single backticks in docstrings are code

logger = logging.getLogger(__name__)
_UNREAD = re.compile(r"(?m)^\s*\.\. [\w:-]+::|(?<!\w):[a-z]+:`|^\s*(```|:::)\{")
_CODE = re.compile(r"(`[^`]*`)")
_MARKUP = re.compile(r"(?<!\\)(\*(?=\w)|(?<=\w)\*|\|)")


def escape_markup(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep stars and bars of plain docstrings, as in (n, *state_shape) and |z|, from being read as markup."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...", ":", "..")):
            parts = _CODE.split(line)
            lines[i] = "".join(p if p.startswith("`") else _MARKUP.sub(r"\\\1", p) for p in parts)


def inline_math(writer: Any, node: nodes.Element) -> None:
    writer.body.append(convert(node.astext(), display="inline"))
    raise nodes.SkipNode


def displayed_math(writer: Any, node: nodes.Element) -> None:
    writer.body.append(convert(node.astext(), display="block"))
    raise nodes.SkipNode


def refuse_raw_directives(app: Any, document: nodes.document, name: str) -> None:
    """Warn, which ends `make docs`, where text of a page is a directive or a role that nothing has read.

    MyST passes what a directive generates on as Markdown: one that writes reStructuredText belongs in `eval-rst`.
    """
    for text in document.findall(nodes.Text):
        raw = _UNREAD.search(text.astext())
        if raw and not isinstance(text.parent, (nodes.literal, nodes.literal_block, nodes.raw)):
            logger.warning("raw markup %r in the page", raw[0], location=text.parent)


def setup(app: Any) -> None:
    app.connect("doctree-resolved", refuse_raw_directives)
    app.add_html_math_renderer("mathml", (inline_math, None), (displayed_math, None))
    app.connect("autodoc-process-docstring", escape_markup, priority=100)  # before numpydoc
