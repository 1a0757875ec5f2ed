"""Every figure of the studies that were run, into figures/build (pictures) and figures/captions."""

import importlib

NAMES = (
    "one_step_all_steps", "fig5_reconstructions", "fig6_normality", "chain_length", "objectives", "table4_speedup",
    "high_frequencies", "ip_without_training", "isotropy_before_after", "delta_and_norms",
)  # fmt: skip


def main() -> None:
    for name in NAMES:
        importlib.import_module(name).main()


if __name__ == "__main__":
    main()
