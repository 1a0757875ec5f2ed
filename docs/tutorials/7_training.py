"""
A training loop, watched
========================

You train a diffusion model. Do its samples become better, and what is left that training can mend?
"""

# %%
# A small network and images of two kinds of stripes. Any training loop works alike, and so do
# Lightning and Accelerate.

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import exposure_bias as eb

rng = np.random.default_rng(0)
stripes = np.sign(np.sin(np.arange(8) * np.pi / 2 + 0.1))
images = np.where(rng.random((512, 1, 1, 1)) < 0.5, stripes, stripes[:, None]).astype(np.float32)
images = 0.5 * images + rng.normal(0, 0.2, images.shape).astype(np.float32)
images = images.clip(-1, 1)

torch.manual_seed(0)
schedule = eb.schedules.linear(1000)
net = torch.nn.Sequential(
    torch.nn.Conv2d(2, 32, 3, padding=1),
    torch.nn.SiLU(),
    torch.nn.Conv2d(32, 32, 3, padding=1),
    torch.nn.SiLU(),
    torch.nn.Conv2d(32, 1, 3, padding=1),
)


def predict(net: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The noise, from an image and its timestep as a second channel."""
    return net(torch.cat([x, (t / 1000).reshape(-1, 1, 1, 1).expand_as(x)], 1))


model = eb.Denoiser(
    net, schedule=schedule, prediction_type="epsilon", shape=(1, 8, 8), call=predict
)

# %%
# The monitor measures 256 held-out images every 100 steps. ``begin`` says what that costs.

path = Path(tempfile.mkdtemp()) / "monitor.csv"
monitor = eb.Monitor(every=100, data=images[256:], steps=10, log=str(path))
print(monitor.begin(model))

optimiser = torch.optim.Adam(net.parameters(), 2e-3)
alpha, sigma = torch.tensor(schedule.alpha).float(), torch.tensor(schedule.sigma).float()
for step in range(401):
    x0 = torch.from_numpy(images[rng.integers(0, 256, 64)])
    t = torch.randint(0, 1000, (64,))
    noise = torch.randn_like(x0)
    a, s = (values[t].reshape(-1, 1, 1, 1) for values in (alpha, sigma))
    loss = (predict(net, a * x0 + s * noise, t) - noise).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    monitor(step, model)

# %%
# Compare ``gap`` with ``gap_perfect`` and not with 0: ten steps lose variance even with a perfect
# network, and no training brings that back.

log = pd.read_csv(path)
print(log[["step", "gap", "gap_se", "gap_perfect", "forward_loss"]].round(3).to_string(index=False))

# %%
# In Lightning: ``Trainer(callbacks=[monitor.lightning()])``. See :doc:`/monitor` for TensorBoard,
# W&B, MLflow and model cards.
