"""
A model that runs on its own frames
===================================

Video, world and weather models draw a frame from the frames before. How far do they drift, and
would more steps help, or training?
"""

# %%
# The bundled model draws the next state of stochastic Lorenz-96, 16 numbers, from the one before.
# For a network of your own see :doc:`video, world and weather models </video>`.

import exposure_bias as eb

model, sequences = eb.load_model("lorenz96"), eb.Sequences("lorenz96")
drift = eb.drift_budget(model, sequences, sampler="heun", steps=4, frames=6, n=256, free_limit=True)
print(drift.attrs["answer"])

# %%
# One frame's own error is small, and feeding frames back multiplies it. The colours say who makes
# that error; right is 0.

figure = eb.plots.drift(drift)

# %%
# With ever smaller steps most of the drift would be gone: here the sampler is to blame, and
# training would be in vain.

last = drift.sel(statistic="variance").isel(frame=-1)
for term in ("total", "feedback", "discretisation", "initialisation", "score", "total_limit"):
    half = 2.13 * float(last[f"{term}_se"])
    print(f"{term:15s} {100 * float(last[term]):+6.1f} ± {100 * half:.1f} %")

# %%
# What a change does to each term is measured on the same noise.

compared = eb.compare_drift(
    {
        "4 steps": model,
        "8 steps": (model, {"steps": 8}),
        "one call": (model, {"start": "one call"}),
    },
    sequences,
    sampler="heun",
    steps=4,
    frames=6,
    n=256,
)
figure = eb.plots.compare_drift(compared)
print(compared.attrs["answer"])
