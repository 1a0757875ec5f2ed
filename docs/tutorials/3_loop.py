"""
A sampling loop of your own, observed
=====================================

You have a sampler that is not ours and want to see what the network sees in it.
"""

# %%
# The network, and the loop. It is DDIM with a twist that the package knows nothing of: every
# prediction of the noise is multiplied by a number. ``eb.observe`` only watches what the network
# is called with.

import torch

import exposure_bias as eb

model = eb.load_model("digits")
data = eb.load_data("digits")
net = model.net
schedule = model.schedule
alpha, sigma = torch.as_tensor(schedule.alpha), torch.as_tensor(schedule.sigma)


@torch.no_grad()
def my_sampler(n: int, steps: int, boost: float) -> torch.Tensor:
    """DDIM, with every prediction of the noise multiplied by `boost`."""
    x = torch.randn(n, 1, 8, 8)
    times = torch.linspace(999, 0, steps).round().long()
    for here, there in zip(times, [*times[1:], None], strict=True):
        noise = boost * net(x, here.repeat(n)).sample
        x0 = (x - sigma[here] * noise) / alpha[here]
        x = x0 if there is None else alpha[there] * x0 + sigma[there] * noise
        x = x.float()
    return x


# %%
# Batches add up. ``finish`` hands over where the loop ended; without it the last prediction of
# :math:`x_0` counts.


def seen(boost: float) -> eb.Recording:
    torch.manual_seed(0)
    with eb.observe(model, data=data) as chain:
        for _ in range(2):
            chain.finish(my_sampler(128, 6, boost))
    return chain.recording()


plain, boosted = seen(1.0), seen(1.01)

# %%
# The recording is like one that ``eb.record`` makes, and every diagnostic reads it. The chain
# began with noise, so that distributions are compared, and not pairs of images.

for name, recording in (("plain", plain), ("boosted", boosted)):
    gap = eb.variance_gap(recording).isel(step=-2)
    hf = eb.spectrum(recording)
    print(
        f"{name:8} variance {100 * gap.gap.item():6.1f} ± {100 * gap.gap_se.item():.1f} %,"
        f" high frequencies {hf.hf.item():5.2f} ± {hf.hf_se.item():.2f} dB"
    )

# %%

eb.plots.strip(plain, samples=2)
