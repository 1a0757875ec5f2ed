"""
Remedies compared, as a table for a paper
=========================================

Would a remedy at sampling time help? Try several on the same images, noise and levels.
"""

# %%
# A remedy is written behind the model's name: ``es`` divides the predicted noise by a number,
# ``ip`` answers as a network trained with input perturbation would. The first entry is what the
# others differ from. ``budget=True`` would also say which part of a difference is the network's,
# at six more chains a model.

import exposure_bias as eb

compared = eb.compare(
    ["digits", "digits + es:1.01", "digits + ip:0.1"],
    "digits",
    sampler="ddim",
    steps=5,
    n=256,
    lengths=(),
    budget=False,
)

# %%
# Differences are paired: all entries walked on the same noise, so that a difference is known better
# than either value.

table = eb.table(compared).query("statistic in ('gap', 'hf')")
table = table[["statistic", "entry", "value", "se", "difference", "difference_se"]]
print(table.round(4).to_string(index=False))

# %%
# The same as LaTeX, for the package booktabs. ``eb-analyze compare digits "digits + es:1.01"
# --format latex`` prints one whose cells are values with their intervals.

print(table.to_latex(index=False, float_format="%.4f", escape=True))
