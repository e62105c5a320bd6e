"""The user guide: its examples run, its links lead somewhere, every page can be reached."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eqrlab import attractors as at

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if not {"_build", "generated"} & set(p.parts))
if not PAGES:
    pytest.skip("the guide is not part of this installation", allow_module_level=True)


def blocks(page, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def name(page):
    return str(page.relative_to(DOCS))


CODE = r"(?:\{code-cell\} )?python"  # examples, and cells of pages that are notebooks


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, CODE)], ids=name)
def test_examples_of_the_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = compile("\n".join(blocks(page, CODE)), name(page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {"__name__": "example"})
    assert printed.getvalue().strip() or not blocks(
        page, "python"
    )  # what cells of a notebook show is not printed


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).is_file(), target


def test_every_page_is_in_a_table_of_contents():
    listed = {
        (page.parent / f"{line.strip()}.md").resolve()
        for page in PAGES
        for tree in blocks(page, r"\{toctree\}")
        for line in tree.splitlines()
        if line.strip() and not line.startswith(":")
    }
    assert listed == {p.resolve() for p in PAGES if p.name != "index.md"} | {
        (DOCS / "methods/index.md").resolve()
    }


def test_what_writes_restructured_text_stands_in_eval_rst():
    for page in PAGES:
        assert not re.findall(r"^```\{(click|auto\w+)\}", page.read_text(encoding="utf-8"), re.MULTILINE), (
            page
        )


NOTEBOOK = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n# Title\n\n```{{code-cell}} python\n{}\n```\n"


@pytest.mark.slow
def test_a_page_with_a_raw_directive_or_a_cell_that_fails_ends_the_build(tmp_path):
    pytest.importorskip("myst_nb", reason="the tools of the guide are not installed")
    pytest.importorskip("sphinx_click")
    (tmp_path / "static").mkdir()
    (tmp_path / "conf.py").write_text((DOCS / "conf.py").read_text())
    right = "# Title\n\n```{eval-rst}\n.. click:: eqrlab.analyses.cli:cli\n   :prog: eqrlab\n```\n"
    wrong = "# Title\n\n```{click} eqrlab.analyses.cli:cli\n:prog: eqrlab\n```\n"
    told = {}
    for name, text, code in (
        ("right", right, 0), ("wrong", wrong, 1),
        ("runs", NOTEBOOK.format("1 + 1"), 0), ("fails", NOTEBOOK.format("1 / 0"), 1),
    ):  # fmt: skip
        (tmp_path / "index.md").write_text(text)
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-W",
            "-E",
            "-b",
            "html",
            str(tmp_path),
            str(tmp_path / "out"),
        ]
        built = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert built.returncode == code, (name, built.stderr)
        told[name] = built.stderr
    assert "raw markup '.. program::'" in told["wrong"] and "ZeroDivisionError" in told["fails"]


def test_every_public_analysis_is_in_the_api_page():
    listed = re.findall(r"^   (\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in at.__all__ if name not in listed] == []
    assert len(listed) == len(set(listed))
