"""
A network of your own, cosine schedule, v-prediction
====================================================

You have a torch module and know how it was trained: say so once, and every tool works on it.
"""

# %%
# A small network, and its training in a few lines: a plain loop, as yours may be. It is asked for
# :math:`v = \alpha_t\varepsilon - \sigma_t x_0`.

import torch
from torch import nn

import exposure_bias as eb

torch.manual_seed(0)
schedule = eb.schedules.cosine(1000)
images = torch.as_tensor(eb.load_data("digits", split="train").images)


class Net(nn.Module):
    """Two hidden layers on the pixels of an image and its time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64 + 16, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64)
        )

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        phases = timestep[:, None] / 1000 * torch.pi * torch.arange(1, 9)
        features = [x.flatten(1), phases.sin(), phases.cos()]
        return self.layers(torch.cat(features, dim=1).float()).view_as(x)


net = Net()
alpha, sigma = (torch.as_tensor(k, dtype=torch.float32) for k in (schedule.alpha, schedule.sigma))
optimiser = torch.optim.Adam(net.parameters(), 2e-3)
for _ in range(800):
    x0 = images[torch.randint(len(images), (128,))].float()
    t = torch.randint(1000, (128,))
    noise = torch.randn_like(x0)
    a, s = alpha[t, None, None, None], sigma[t, None, None, None]
    loss = (net(a * x0 + s * noise, t.float()) - (a * noise - s * x0)).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"loss {loss.item():.3f}")

# %%
# What the code around the network knows: how noise is added, what the network returns, and the
# shape of a state.

model = eb.Denoiser(net, schedule=schedule, prediction_type="v_prediction", shape=(1, 8, 8))
recording = eb.record(model, eb.load_data("digits"), sampler="ddim", steps=10, n=256)
print(eb.denoising_check(recording).attrs["sentence"])

# %%
# Had we declared it wrongly, there would be no verdict:

wrong = eb.Denoiser(net, schedule=schedule, prediction_type="epsilon", shape=(1, 8, 8))
refused = eb.error_budget(wrong, eb.load_data("digits"), sampler="ddim", steps=5, n=256)
print(refused.attrs["denoising_sentence"])

# %%
# Whose is the gap in variance, the sampler's or the network's?

budget = eb.error_budget(
    model, eb.load_data("digits"), sampler="ddim", steps=10, n=256, restarts=()
)
table = eb.table(budget).query("statistic in ('gap', 'hf')").set_index("statistic")
for part in ("total", "discretisation", "score"):
    low, high = table[f"{part}_low"], table[f"{part}_high"]
    print(f"{part:15} gap {low.gap:6.3f} to {high.gap:6.3f}, HF {low.hf:5.2f} to {high.hf:5.2f} dB")
print("answer:", table.answer.gap, "- about", table.needed_n.gap, "images would decide")

# %%

eb.plots.budget(budget)
