"""Every study, in the order of the talk; what is finished is skipped.

python analyses/studies.py                   # the default scale, `make studies`
python analyses/studies.py --untrained       # those that train nothing
"""

import importlib
import sys
import time

import common

UNTRAINED = (
    "one_step_all_steps",
    "fig5_reconstructions",
    "fig6_normality",
    "chain_length",
    "delta_and_norms",
    "solver_share",
)
TRAINED = (
    "table2_regularisers",
    "table3_steps",
    "table4_speedup",
    "table7_objectives",
    "high_frequencies",
    "ip_without_training",
    "isotropy_before_after",
    "few_step_ddim",
    "objective_budgets",
)
# The rows of docs/results.md, as the issue and the talk have them.
ORDER = (*UNTRAINED[:4], *TRAINED[:7], "delta_and_norms", TRAINED[7], "solver_share", TRAINED[8])


def main(argv: list[str]) -> None:
    for name in UNTRAINED if "--untrained" in argv else (*UNTRAINED, *TRAINED):
        since = time.perf_counter()
        study = importlib.import_module(name)
        common.main(study.STUDY, study.measure, study.DEFAULT, study.SMOKE, [])
        print(f"    {time.perf_counter() - since:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
