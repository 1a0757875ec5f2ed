"""How good samples are, with their uncertainty.

Fréchet distance, KID, precision and recall over features.

The names stand in `__init__.pyi` and are imported when first used, because the distances need no
torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
