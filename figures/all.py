"""Every figure of the studies that were run.

python figures/all.py               # pictures into figures/build, captions into figures/captions
python figures/all.py FOLDER        # pictures into another folder
python figures/all.py FOLDER NAME   # one of them
"""

import importlib
import sys
from pathlib import Path

import drawing

NAMES = (
    "one_step_all_steps",
    "fig5_reconstructions",
    "fig6_normality",
    "claims",
    "ip_without_training",
    "delta_and_norms",
    "solver_share",
    "objective_budgets",
    "trainings",
)


def main(argv: list[str]) -> None:
    if argv:
        drawing.folder = Path(argv[0])
    for name in argv[1:] or NAMES:
        importlib.import_module(name).main()


if __name__ == "__main__":
    main(sys.argv[1:])
