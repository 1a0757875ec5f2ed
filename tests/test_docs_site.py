"""The documentation: every link leads somewhere, every public name has a page, and the site that
`make docs` built asks nothing of the outside."""

import ast
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import exposure_bias as eb

ROOT = Path(__file__).parents[1]
DOCS, SITE = ROOT / "docs", ROOT / "build" / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("[!g]*/*.md")])
# What a browser fetches by itself; links that a reader follows may lead out.
FETCHED = {"src", "srcset", "poster", "data"}


def public_names() -> set[str]:
    stub = ast.parse((Path(eb.__file__).parent / "__init__.pyi").read_text())
    return {a.asname or a.name for n in stub.body if isinstance(n, ast.ImportFrom) for a in n.names}


def anchors(page: Path) -> set[str]:
    """Headings as GitHub and MyST name them, and anchors that are written out."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
    return (
        slugs
        | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
        | set(re.findall(r"^\(([\w-]+)\)=$", text, re.M))
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        if path.startswith("generated/"):  # made with the site, which checks these links
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_pages_name_files_that_exist() -> None:
    """`docs/x.md`, `analyses/x.py`, … wherever a page names one."""
    for page in PAGES:
        for name in re.findall(
            r"`((?:docs|analyses|benchmarks|figures|tests)/[\w/.-]+\.\w+)`", page.read_text()
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_reference_lists_every_public_name() -> None:
    listed = re.findall(r"^   (\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == public_names()


@pytest.mark.slow
def test_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lines of Python, whose numbers are those that the README shows of the command."""
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    first = re.search(r"^The samples' variance is [^`]*", readme, re.MULTILINE)
    assert first is not None
    numbers = re.findall(r"−?[\d.]+ ± [\d.]+ %", first[0])
    said = capsys.readouterr().out
    assert len(numbers) == 3
    assert [n for n in numbers if n not in said] == []


class Assets(HTMLParser):
    """What a page fetches: (tag, address)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            (tag, value or "")
            for name, value in attrs
            if name in FETCHED or (tag == "link" and name == "href")
        ]


@pytest.fixture
def site() -> Path:
    if not (SITE / "index.html").exists():
        pytest.skip("there is no built site: `make docs` first")
    return SITE


def test_site_has_a_page_for_every_public_name(site: Path) -> None:
    for name in public_names():
        page = site / "generated" / "api" / f"exposure_bias.{name}.html"
        assert f'id="{"module-" * is_module(name)}exposure_bias.{name}"' in page.read_text(), name


def is_module(name: str) -> bool:
    return type(getattr(eb, name)).__name__ == "module"


def test_site_asks_nothing_of_the_outside(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        assets = Assets()
        assets.feed(page.read_text())
        outside = [(tag, at) for tag, at in assets.found if re.match(r"(https?:)?//", at)]
        assert not outside, page
        for _, at in assets.found:
            path = at.partition("?")[0].partition("#")[0]
            assert path.startswith("data:") or not path or (page.parent / path).exists(), (page, at)
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style
    for script in site.rglob("*.js"):
        assert not re.search(r"(fetch|import)\(\s*[\"'`](https?:)?//", script.read_text()), script


def test_tutorials_show_what_they_printed(site: Path) -> None:
    tutorials = sorted(p.stem for p in (DOCS / "tutorials").glob("*.py"))
    assert tutorials
    for name in tutorials:
        page: Any = (site / "generated" / "tutorials" / f"{name}.html").read_text()
        assert "sphx-glr-script-out" in page or "sphx-glr-single-img" in page, name
