"""
Remedies compared, as a table for a paper
=========================================

Would a remedy at sampling time help? Try several on the same images, noise and levels.
"""

# %%
# A remedy is written behind the model's name: ``es`` divides the predicted noise by a number,
# ``ip`` answers as a network trained with input perturbation would. The first entry is what the
# others differ from.

import exposure_bias as eb

compared = eb.compare(
    ["digits", "digits + es:1.01", "digits + ip:0.1"],
    "digits",
    steps=10,
    n=256,
    lengths=(),
    budget=False,
)
print(eb.table(compared).to_string(max_cols=6))

# %%
# Differences are paired: all entries walked on the same noise, so that a difference is known
# better than either value.

last = compared.isel(step=-2)
for entry in compared.entry.values[1:]:
    difference = last.sel(entry=entry)
    print(
        f"{entry}: variance gap {100 * difference.gap_difference.item():+.2f}"
        f" ± {100 * difference.gap_difference_se.item():.2f} points (standard error)"
    )

# %%
# The same as LaTeX, for the package booktabs, from the tidy frame that ``eb.table`` makes. At the
# command line ``eb-analyze compare digits "digits + es:1.01" --format latex`` prints one whose
# cells are values with their intervals.

columns = {"gap": "variance gap", "gap_se": "s.e.", "hf": "HF (dB)", "hf_se": "s.e."}
print(eb.table(compared).set_index("entry")[list(columns)].to_latex(float_format="%.3f"))
