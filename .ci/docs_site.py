"""mkdocs hook: the site is the repository's own Markdown, at its own paths, plus a reference made from the docstrings.

Pages keep their repository path, so relative links need no translation. mkdocs reports links that lead nowhere.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "*.md",
    "LICENSE",
    "cluster/README.md",
    "jobs/README.md",
    "dashboards/README.md",
    "render_farm/*/README.md",
    "render_farm/guide/*",
    "tests/README.md",
    "tests/*/README.md",
    "tests/benchmarks/results/*.md",
    "tests/chaos/results/*.md",
)
REFERENCE = ("", "engine", "parallel", "planning", "scheduling", "manifest", "storage", "media", "observability")
"""Packages whose modules are shown; "" is the top of render_farm. `farm`, `report` and `cli` are no library."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the reference to the navigation."""
    names = [(name or "render_farm", _reference_uri(name)) for name in REFERENCE]
    config.nav.append({"Reference": [{title: uri} for title, uri in names]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the theme's files, the repository's pages and the generated reference."""
    theme = [file for file in files if not Path(file.abs_src_path or "").is_relative_to(config.docs_dir)]
    pages = sorted({path for pattern in PAGES for path in ROOT.glob(pattern) if path.is_file()})
    taken = [_page(path, config) for path in pages]
    reference = [File.generated(config, _reference_uri(name), content=_reference(name)) for name in REFERENCE]
    return Files([*theme, *taken, *reference])


def _page(path: Path, config: MkDocsConfig) -> File:
    uri = path.relative_to(ROOT).as_posix()
    return File.generated(config, uri, abs_src_path=str(path), inclusion=InclusionLevel.INCLUDED)


def _reference_uri(package: str) -> str:
    return f"reference/{package or 'render_farm'}.md"


def _reference(package: str) -> str:
    """A page with every public module of a package that has something to show."""
    folder = ROOT / "render_farm" / package
    paths = folder.rglob("*.py") if package else folder.glob("*.py")
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in paths
        if not path.stem.startswith("_") or (path.stem == "__init__" and path.parent == folder)
    )
    names = [module.removesuffix(".__init__") for module in modules]
    return f"# {package or 'render_farm'}\n\n" + "\n\n".join(f"::: {name}" for name in names) + "\n"
