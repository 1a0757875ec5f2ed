"""The documentation site: `make docs` builds it into build/docs. Its pages ask nothing of the
outside."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "site"))
# Tutorials are small, and CI's cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "exposure_bias"
author = "the authors of exposure_bias"
html_title = "exposure_bias"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "docstrings",
    "gallery",
    "mathml",
]
templates_path = ["site"]
exclude_patterns = ["site", "tutorials", "generated/tutorials/*.ipynb", "generated/tutorials/*.py"]
html_theme = "furo"
html_static_path = ["site/site.css"]
html_css_files = ["site.css"]
smartquotes = False  # a string's quotes in prose are code
html_copy_source = html_show_copyright = False
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

# One page for every public name; docs/generated is made anew and not committed.
autosummary_generate = True
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints_format = "short"
maximum_signature_line_length = 72
# Denoiser and Sampler are public under two names; a link to either is right.
suppress_warnings = ["ref.python"]
add_module_names = False

# The tutorials run when the site is built, so that what they show is what they printed.
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "generated/tutorials",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),
    "reset_modules": ("matplotlib",),
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 10_000,  # seconds: a page is the same whatever machine built it
    "download_all_examples": False,
}
