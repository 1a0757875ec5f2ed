"""The gallery: every figure of the studies, drawn from results/ when the site is built."""

import importlib
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
FIGURES, RESULTS = ROOT / "figures", ROOT / "results"
HEAD = """# Gallery

Figures of the studies, drawn from `results/` as by `make figures`, which also writes them as PDF.
What they say of each claim stands in [results](../results.md).
"""


def draw(app: Sphinx) -> None:
    """Pictures and their page into docs/generated, if results or scripts are newer."""
    made = Path(app.srcdir) / "generated"
    page, pictures = made / "gallery.md", made / "figures"
    sources = [*FIGURES.glob("*.py"), *FIGURES.glob("reference/*"), *RESULTS.glob("*/*")]
    if page.exists() and page.stat().st_mtime > max(p.stat().st_mtime for p in sources):
        return
    sys.path.insert(0, str(FIGURES))
    drawing, every = (importlib.import_module(name) for name in ("drawing", "all"))
    drawing.formats.pop("pdf", None)  # half of the time, and not shown
    every.main([str(pictures)])
    parts = [HEAD]
    for picture in sorted(pictures.glob("*.png")):
        caption = (FIGURES / "captions" / f"{picture.stem}.md").read_text().strip()
        title = picture.stem.replace("_", " ").capitalize()
        parts.append(f"## {title}\n\n![{title}](figures/{picture.name})\n\n{caption}\n")
    page.write_text("\n".join(parts))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
