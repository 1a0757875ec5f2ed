"""
A model of sequences: does it drift?
====================================

Your model draws frame after frame, each from the frames before it. Contrast runs away over the
frames. Is it the network, the sampler, or the frames that it feeds back to itself?
"""

# %%
# A perfect network, so that we know the truth: a frame has 16
# numbers, and the next one is 0.9 times the last one plus noise.
# Its exact denoiser stands in for your network. Yours is ``eb.Denoiser(net, …, context=p)``, which
# gets the p frames before as ``c.frames``.

import matplotlib.pyplot as plt
import numpy as np

import exposure_bias as eb

model = eb.oracles.LinearAutoregression(0.9 * np.eye(16), eb.schedules.linear())
sequences = eb.Sequences(model.law.sample(256, 9))

# %%
# The budget runs the sampler on true frames and on its own frames, with the same noise.

drift = eb.drift_budget(model, sequences, sampler="ddim", steps=6)
print(drift.attrs["answer"])

# %%
# The network is perfect, and still its samples drift: the sampler's few steps lose a little
# variance in each frame, and feeding the frames back adds these losses up.

eb.plots.drift(drift, statistics=("variance",), column="single")
plt.show()

# %%
# With more steps the drift goes away, although the network is the same.

better = eb.drift_budget(model, sequences, sampler="ddim", steps=30)
for steps, result in ((6, drift), (30, better)):
    last = result.sel(statistic="variance").isel(frame=-1)
    total, half = float(last["total"]), float(last["total_high"] - last["total_low"]) / 2
    print(f"{steps} steps: variance is off by {100 * total:.1f} ± {100 * half:.1f} %")
