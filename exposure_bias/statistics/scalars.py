"""A few numbers for each sample and step, kept as they are."""

import numpy as np

from exposure_bias.statistics.accumulator import Accumulator, Batch


class SampleScalars(Accumulator):
    """float32 arrays (sample, step), NaN where a step has no network call.

    epsilon_norm: ‖ε̂‖₂. outside: fraction of x̂_0 beyond [−1, 1] before any clipping. prediction_error: mean over pixels
    of (x̂_0 − x_0)², for paired streams. error_norm: ‖x̂_t − x_t‖₂ against the teacher chain, for paired chains.
    """

    def __init__(self, names: tuple[str, ...], samples: int, steps: int) -> None:
        super().__init__()
        for name in names:
            self.state[name] = np.full((samples, steps), np.nan, dtype=np.float32)
            self.dims[name] = ("sample", "step")

    def update(self, row: int, batch: Batch) -> None:
        now = batch.step.prediction
        values = {}
        if now is not None and batch.prediction is not None:
            values["epsilon_norm"] = now.epsilon.flatten(1).norm(dim=1)
            values["outside"] = now.outside
            values["prediction_error"] = (batch.prediction - batch.data).square().mean(1)
        if batch.error is not None:
            values["error_norm"] = batch.error.norm(dim=1)
        for name in values.keys() & self.state.keys():
            self.state[name][batch.rows, row] = values[name].cpu().numpy()
