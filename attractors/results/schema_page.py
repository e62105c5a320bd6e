"""The tables of SCHEMA.md, written from the registry: `python -m eqrlab.attractors.results.schema_page`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eqrlab.attractors.results.variables import ATTRIBUTES, GROUPS, SCHEMA_VERSION, Attribute, Variable

PAGE = Path(__file__).parents[1] / "SCHEMA.md"
RANGES = (
    "Values that are not missing lie within these ranges. A name of a dimension stands for its last index, counted "
    "from 0."
)
NOT_IN_EVERY = "`?`: not in every archive."


def page(text: str) -> str:
    """Return the page with its tables as the registry has them; what stands before them is kept as it is."""
    lines = text.partition("## Attributes")[0].splitlines()
    lines[0] = f"# Archive schema, version {SCHEMA_VERSION}"
    return "\n".join([*lines, *_tables()]) + "\n"


def _tables() -> Iterator[str]:
    yield from ("## Attributes", "", *_head("attribute", "groups", "type", "meaning"))
    for a in ATTRIBUTES:
        yield _row(_quoted(a.name), a.groups, a.kind, a.meaning)
    yield from ("", NOT_IN_EVERY, "", "## Ranges", "")
    yield RANGES
    yield from ("", *_head("variables of groups, and attributes", "least", "most"), *_ranges())
    for group in GROUPS:
        optional = f" {NOT_IN_EVERY}" if any(v.name.endswith("?") for v in group.variables) else ""
        yield from ("", f"## Group {group.name}", "", group.text + optional, "")
        yield from _head("variable", "dimensions", "type", "meaning")
        for v in group.variables:
            kind = v.kind if isinstance(v.kind, str) else "flag: " + " ".join(v.kind)
            yield _row(_quoted(v.name), v.dims, kind, v.meaning)


def _ranges() -> Iterator[str]:
    """Yield a row for each range of a group, and of the attributes."""
    for group in GROUPS:
        rows: dict[tuple[str, str], list[str]] = {}
        for v in group.variables:
            if v.least is not None or v.most is not None:
                rows.setdefault(_limits(v), []).append(f"`{group.name}/{v.name.rstrip('?')}`")
        for name, least in group.coordinates.items():
            rows.setdefault((f"{least:g}", ""), []).append(f"`{group.name}/{name}`")
        for limits, names in rows.items():
            yield _row(" ".join(names), *limits)
    rows = {}
    for a in ATTRIBUTES:
        if a.least is not None or a.most is not None:
            rows.setdefault(_limits(a), []).append(f"`{a.name.rstrip('?')}`")
    for limits, names in rows.items():
        yield _row(" ".join(names), *limits)


def _limits(row: Variable | Attribute) -> tuple[str, str]:
    least, most = ("" if v is None else v if isinstance(v, str) else f"{v:g}" for v in (row.least, row.most))
    return least, most


def _quoted(name: str) -> str:
    return f"`{name.rstrip('?')}`" + "?" * name.endswith("?")


def _head(*names: str) -> tuple[str, str]:
    return _row(*names), "|" + "---|" * len(names)


def _row(*cells: str) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in escaped)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
