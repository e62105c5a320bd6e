"""Guards on the layout: import names, dependency direction, sizes, what is installed, documented examples."""

import ast
import doctest
import fnmatch
import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import eqrlab

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("core", "attractors", "analyses", "datasets")
FAMILIES = ("eqr", "trm", "hrm", "urm", "feedforward")
MAY_IMPORT = {
    "core": set(),
    "datasets": {"core"},
    "attractors": {"core"},
    "analyses": {"core", "datasets", "attractors"},
}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).glob("**/*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

needs_checkout = pytest.mark.skipif(not SOURCES, reason="reads the source folders of a checkout")
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())


def installed_modules() -> list[str]:
    """Names of every eqrlab module, found without importing one."""
    names = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(f"eqrlab.{package}")
        assert spec is not None and spec.submodule_search_locations is not None
        found = pkgutil.walk_packages(list(spec.submodule_search_locations), f"eqrlab.{package}.")
        names += [spec.name, *(module.name for module in found)]
    return sorted(names)


def imports(path: Path) -> list[tuple[int, str]]:
    """Dotted names a file imports anywhere, with line numbers; `from a import b` counts as a.b."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            names += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
    return names


@needs_checkout
def test_every_package_folder_is_listed_for_installation():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert folders == set(PACKAGES)
    rooms = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert not [folder for folder in rooms if not (folder / "__init__.py").is_file()], (
        "not found for the wheel"
    )


@needs_checkout
def test_every_other_file_of_a_package_is_package_data():
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    left_out = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            name = path.relative_to(ROOT / package).as_posix()
            if path.is_file() and "__pycache__" not in name and path.suffix not in {".py", ".tmp"}:
                if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns[f"eqrlab.{package}"]):
                    left_out.append(f"{package}/{name}")
    assert not left_out, "not matched by [tool.setuptools.package-data], so missing from the wheel"


@needs_checkout
@pytest.mark.parametrize("package", PACKAGES)
def test_link_resolves_to_its_folder(package):
    link = ROOT / "src" / "eqrlab" / package
    assert link.is_symlink() and link.resolve() == ROOT / package, "neither installed nor checked by mypy"


def test_version_and_load_are_at_the_top():
    assert eqrlab.load is eqrlab.core.load
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", eqrlab.__version__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = eqrlab.lode
    done = subprocess.run([sys.executable, "-m", "eqrlab", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[-1] == eqrlab.__version__


@pytest.mark.parametrize("name", ["eqrlab", "eqrlab.datasets"])
def test_importing_the_top_or_datasets_does_not_wait_for_torch(name):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules or 'xarray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_typed(package):
    assert (importlib.resources.files(f"eqrlab.{package}") / "py.typed").is_file()


@pytest.mark.parametrize("name", PACKAGES)
def test_bare_name_is_not_ours(name):
    spec = importlib.util.find_spec(name)
    places = [spec.origin, *(spec.submodule_search_locations or [])] if spec else []
    ours = {
        Path(importlib.import_module(f"eqrlab.{package}").__file__).resolve().parent for package in PACKAGES
    }
    for place in filter(None, places):
        found = Path(place).resolve()
        assert ours.isdisjoint({found, found.parent})


def test_version_is_the_installed_one():
    assert eqrlab.__version__ == importlib.metadata.version("eqrlab")


@needs_checkout
def test_version_is_the_cited_one():
    assert f"\nversion: {eqrlab.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert eqrlab.__version__ in (ROOT / "CHANGELOG.md").read_text()


@needs_checkout
@each_source
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    forbidden = {"functorch", "eqrlab", *PACKAGES}
    if package != "analyses":
        forbidden.add("matplotlib")
    if package == "core":
        forbidden.add("xarray")
    wrong = []
    for line, name in imports(path):
        top, second = [*name.split("."), ""][:2]
        allowed_here = top == "eqrlab" and second in MAY_IMPORT[package] | {package, "__version__"}
        if top == "" or (top in forbidden and not allowed_here):
            wrong.append(f"line {line}: {name}")
    assert not wrong


@needs_checkout
@each_source
def test_attractors_know_no_family(path):
    if path.relative_to(ROOT).parts[0] != "attractors":
        return
    names = [name for _, name in imports(path) if name.startswith("eqrlab.core.")]
    parts = {part.lower() for name in names for part in name.split(".")[2:]}
    assert not {part for part in parts if part.startswith(FAMILIES)}


@needs_checkout
@each_source
def test_a_module_is_short_or_says_why(path):
    text = path.read_text()
    reason = ast.get_docstring(ast.parse(text)) or ""
    assert text.count("\n") <= 400 or "One subject:" in reason


@needs_checkout
@each_source
def test_sections_of_docstrings_stand_on_lines_of_their_own(path):
    """Also the names in them: a parameter whose name is in the middle of a line is not found by a reader."""
    nodes = [
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.ClassDef)
    ]
    joined = []
    for node in nodes:
        text = ast.get_docstring(node) or ""
        joined += [f"{node.name}: {line}" for line in text.splitlines() if re.search(r"\S -{4,}( |$)", line)]
        arguments = node.args.args + node.args.kwonlyargs if isinstance(node, ast.FunctionDef) else []
        for name in (argument.arg for argument in arguments):
            inside = re.search(
                rf"^ .*[.;:)] ({name}|{name}, \w+) [A-Z`\"(]|^ .*[.;:)] {name}$", text, re.MULTILINE
            )
            joined += [f"{node.name}: {inside[0]}"] if inside else []
    assert not joined


@needs_checkout
@each_source
def test_library_does_not_print(path):
    if path.stem == "cli" or path.parent.name == "commands":
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not lines


@pytest.mark.parametrize("name", installed_modules())
def test_examples_in_docstrings_hold(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert results.failed == 0


@pytest.mark.slow
def test_examples_of_the_readme_print_what_it_shows(tmp_path):
    readme = (ROOT / "README.md").read_text()
    of = lambda kind: re.findall(rf"^```{kind}\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    blocks, shown = of("python"), of("text")
    if not blocks:
        pytest.skip("README.md has no python example")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    same = lambda text: [
        re.sub(r"\d", "#", line.rstrip()) for line in text.splitlines()
    ]  # processors differ in rounding
    assert same(done.stdout) == same("".join(shown))
