"""How near is IP without training to trained IP, by distance instead of by slope?

The root mean square of ε_IP − ε_free over that of ε_IP − ε_DDPM, by level, for the bundled pairs,
where ε_free is the DDPM's with a level shift (`ip_equivalent`) or with a constant scaling. A ratio
of 1 says that the change explains nothing of what distinguishes the two trained networks. Both
networks of a pair have one seed, so that what differs by chance of training is in both norms.

    python analyses/ip_distance.py    # a minute; writes results/ip_distance/ratios.csv
"""

import common
import numpy as np
import pandas as pd
import torch

import exposure_bias as eb

GAMMA, LEVELS, SEED = 0.1, (20, 50, 100, 200, 400, 600, 800, 950), 0


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for name in ("digits", "fashion") for row in ratios(name)]
    out = common.RESULTS / "ip_distance"
    out.mkdir(parents=True, exist_ok=True)
    common.write(pd.DataFrame(rows), out / "ratios.csv")
    print(pd.DataFrame(rows).round(3).to_string(index=False))


def ratios(name: str, n: int = 512) -> list[dict[str, object]]:
    """A row for each level and change, with a 95 % interval over images."""
    data = eb.load_data(name, "test")
    ids = np.arange(n) % len(data)
    x0, groups = torch.from_numpy(data.batch(ids)).double(), ids % common.GROUPS
    ddpm, ip = eb.load_model(name), eb.load_model(f"{name}-ip")
    changed = {
        "level shift": eb.remedies.ip_equivalent(ddpm, gamma=GAMMA),
        "constant scaling": eb.remedies.epsilon_scaled(ddpm, 1 + GAMMA**2),
    }
    noise = eb.paths.Noise(SEED, "distance", range(n), data.shape)
    rows: list[dict[str, object]] = []
    for i, timestep in enumerate(LEVELS):
        level = ddpm.schedule.level(timestep)
        x = eb.streams.noised(x0, level, noise(i))
        wanted = ip.predict(x, level).epsilon
        whole = apart(wanted, ddpm.predict(x, level).epsilon)
        for change, model in changed.items():
            left = apart(wanted, model.predict(x, level).epsilon)
            each = common.deleted(lambda a, b: np.sqrt(a / b), groups, left, whole)
            rows.append(
                {"data": name, "timestep": timestep, "change": change}
                | common.with_interval([each])
            )
    return rows


def apart(one: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    return (one - other).square().flatten(1).sum(1).double().numpy()


if __name__ == "__main__":
    main()
