"""
Every figure, with its code
===========================

One short block for each kind of result. Every function takes ``ax=`` or ``axes=`` for Axes of your
own and ``column="single"`` for the width of a paper's column, and returns the figure.
"""

# %%
# One recording serves many diagnostics.

import matplotlib.pyplot as plt

import exposure_bias as eb

model, data = eb.load_model("digits"), eb.load_data("digits", split="test")
recording = eb.record(model, data, sampler="ddpm", steps=10, n=256, keep=3)

# %%
# Do the samples vary as much as the data?

eb.plots.variance_gap(eb.variance_gap(recording))
plt.show()

# %%
# Which details are missing?

eb.plots.spectrum(eb.spectrum(recording))
plt.show()

# %%
# How far is the sampler's state from the state with the true image?

eb.plots.state_error(eb.state_error(recording))
plt.show()

# %%
# The measures of the literature: the size of the predicted noise, and the variance error.

eb.plots.epsilon_norm(eb.epsilon_norm(recording))
eb.plots.published_delta(eb.published_delta(recording))
plt.show()

# %%
# Some samples along the chain.

eb.plots.strip(recording, samples=2, levels=6)
plt.show()

# %%
# Errors of chains from true noisy images, and whether they are Gaussian and white.

errors = eb.chain_errors(model, data, lengths=(20, 60), n=256)
eb.plots.error_histograms(errors)
eb.plots.normality(eb.isotropy(errors), errors)
plt.show()

# %%
# Errors of one step against errors of all steps, by the level at which the chain starts.

eb.plots.rollouts(eb.rollouts(model, data, starts=(300, 600), steps=5, n=256))
plt.show()

# %%
# Where along the chain the gap arises.

eb.plots.telescope(eb.telescope(model, data, starts=(300, 600), steps=10, n=256))
plt.show()

# %%
# Whether the network is wrong on true noisy images, and what that costs the samples.

eb.plots.network_error(eb.network_error(model, data, n=256))
plt.show()
