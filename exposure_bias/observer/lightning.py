"""What a Lightning trainer calls of a monitor, without importing Lightning.

A step of Lightning's is a step of an optimiser. Several batches may make one step (accumulated
gradients) and one batch several (several optimisers), so that a check is due where a multiple of
`every` was passed since the last batch.
"""

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from exposure_bias.errors import InputError
from exposure_bias.observer.sinks import PREFIX

LIBRARIES = ("lightning.pytorch", "pytorch_lightning")
DISTANCE = "gap_distance"


class LightningHooks:
    """The hooks of a callback; `Monitor` is one."""

    every: int
    model: Any
    _last_step = 0

    def setup(self, trainer: Any, module: Any, stage: str = "fit") -> None:
        """Refuse what does not fit before training starts, and say what a check costs."""
        if stage == "fit":
            said = self.begin(self._of_module(module))
            if getattr(trainer, "is_global_zero", True):
                print(said)

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Begin where the trainer does: a training that is resumed is not measured at once."""
        self._last_step = int(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """A check, where one is due."""
        step, before = int(trainer.global_step), self._last_step
        self._last_step = step
        if step // self.every > before // self.every:
            values = self.check(step, self._of_module(module))
            _tell(module, values)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a monitor has no state that training could resume."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""

    @property
    def state_key(self) -> str:
        """Its name among a trainer's callbacks."""
        return "exposure_bias.Monitor"

    def __getattr__(self, name: str) -> Any:
        # A trainer calls every hook of every callback; those that mean nothing here do nothing.
        if name.startswith("on_") or name == "teardown":
            return lambda *_, **__: None
        for library in LIBRARIES:
            base = getattr(sys.modules.get(library), "Callback", None)
            if base is not None and name in dir(base) and not name.startswith("__"):
                found = inspect.getattr_static(base, name)
                return found.__get__(self, type(self)) if hasattr(found, "__get__") else found
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _of_module(self, module: Any) -> Any:
        if self.model is None:
            raise InputError(
                "a Lightning module is no denoiser by itself: Monitor(model=lambda module:"
                " eb.adapt(module.unet, module.scheduler))"
            )
        return self.model(module)


def _tell(module: Any, values: Mapping[str, float]) -> None:
    """Put the values where other callbacks look for theirs, and in no logger of the user's."""
    if getattr(module, "_trainer", None) is None:
        return  # not of a trainer's making
    told = dict(values)
    if "gap_perfect" in values:
        perfect = values["gap_perfect"]
        told[DISTANCE] = abs(values["gap"] - (perfect if perfect == perfect else 0.0))
    for name, value in told.items():
        module.log(f"{PREFIX}{name}", value, on_step=True, on_epoch=False, logger=False)
