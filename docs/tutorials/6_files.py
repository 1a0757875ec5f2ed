"""
A reviewer who has only files
=============================

Somebody sent you results, and you have neither the network nor a GPU. What can you check?
"""

# %%
# Stand-ins for the files of somebody else: a recording and one result.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import exposure_bias as eb

folder = Path(tempfile.mkdtemp())
model, data = eb.load_model("digits"), eb.load_data("digits", split="test")
eb.record(model, data, sampler="ddim", steps=8, n=256).save(folder / "recording.nc")
eb.save(eb.rollouts(model, data, starts=(300,), steps=8, n=256), folder / "rollouts.nc")

# %%
# A recording says how it was made: model, data, sampler, levels, clipping, seed.

recording = eb.load(folder / "recording.nc")
print(recording.run.describe())

# %%
# It holds the sums from which every diagnostic is computed again. So you need not believe a number,
# and you can ask a question that the authors did not ask. Was the model loaded as it was trained?

print(eb.denoising_check(recording).attrs["sentence"])

# %%
# Do the samples vary as much as the data? The sentence has an interval, and the figure shows what a
# perfect network of Gaussian data would have with the same sampler and number of steps.

gap = eb.variance_gap(recording)
print(gap.attrs["answer"])
eb.plots.variance_gap(gap)
plt.show()

# %%
# One panel of it in a figure of your own:

figure, axis = plt.subplots(figsize=(3.3, 2.4), layout="constrained")
eb.plots.spectrum(eb.spectrum(recording), ax={"ratio": axis})
plt.show()

# %%
# A saved result opens with the same function. Its table is what the command line prints.

rollouts = eb.load(folder / "rollouts.nc")
print(rollouts.attrs["answer"])
print(eb.table(rollouts).round(3).to_string(index=False))

# %%
# What a file cannot tell is whether the gap is the network's or the sampler's: that takes the
# network once more, by ``eb.diagnose``.
