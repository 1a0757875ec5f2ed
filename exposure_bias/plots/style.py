"""The one look of all figures."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns

PALETTE = "colorblind"
REFERENCE: dict[str, Any] = {"color": "0.35", "linestyle": "--", "linewidth": 1.2}
COLUMN = 3.3  # inches
STEP_LABEL = "step (0 = noise)"
DPI = 300


@contextmanager
def style() -> Iterator[None]:
    """Readable at a paper's column width, safe for colour-blind readers, fonts embedded in
    PDFs."""
    settings = {
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper"),
        "axes.prop_cycle": plt.cycler(color=sns.color_palette(PALETTE)),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": DPI,
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
    }
    with plt.rc_context(settings):
        yield
