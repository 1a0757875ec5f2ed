"""
A folder of diffusers
=====================

You have a folder that ``save_pretrained`` wrote, and images. What is wrong with its samples?
"""

# %%
# A stand-in for yours: an untrained pipeline of 8×8 images. Any folder with a
# ``model_index.json`` loads alike.

import tempfile
from pathlib import Path

import diffusers

import exposure_bias as eb

folder = Path(tempfile.mkdtemp()) / "pipeline"
unet = diffusers.UNet2DModel(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    block_out_channels=(8, 16),
    norm_num_groups=4,
    layers_per_block=1,
    down_block_types=("DownBlock2D",) * 2,
    up_block_types=("UpBlock2D",) * 2,
)
diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder)

# %%
# Schedule and prediction type are read from the folder. The first question is whether the model
# denoises these images at all. This one was never trained, and so it is told:

data = eb.load_data("digits")
model = eb.load_model(folder)
untrained = eb.record(model, data, steps=5, n=256, streams=("forward", "chain"))
print(eb.denoising_check(untrained).attrs["sentence"])

# %%
# So let us save a trained network as a folder in its place: the bundled one of the digits, whose
# ``net`` is diffusers' own.

trained = eb.load_model("digits")
diffusers.DDPMPipeline(trained.net, diffusers.DDPMScheduler()).save_pretrained(folder)
model = eb.load_model(folder)
recording = eb.record(model, data, steps=8, n=256)
print(eb.denoising_check(recording).attrs["sentence"])

# %%
# A recording holds the statistics of what training sees and of the chain's own states. Every
# diagnostic reads it, without the network: here how far the variance of the chain's states is off,
# with its 95 % interval, beside that of a perfect denoiser of Gaussian data with the same steps.

gap = eb.variance_gap(recording)
columns = ["timestep", "gap", "gap_low", "gap_high", "gap_gaussian"]
print(eb.table(gap)[columns].round(3).to_string(index=False))

# %%
# At which frequencies does the chain lose power? The dashed line is a perfect denoiser of
# Gaussian data with the same steps. It is context: images are not Gaussian, and a perfect network
# of theirs can lie on either side of it. With few images the line itself is somewhat off.

eb.plots.spectrum(eb.spectrum(recording))

# %%
# ``eb.diagnose(model, data, steps=20)`` also splits the gap into the sampler's share and the
# network's, which takes more network calls; at the command line ``eb-analyze diagnose --model
# FOLDER --data IMAGES -o out``.
