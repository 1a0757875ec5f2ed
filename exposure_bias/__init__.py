"""Does my diffusion model suffer from exposure bias?

Where, why, at what cost, and what would fix it?

    import exposure_bias as eb

    model = eb.load_model("digits")
    data = eb.load_data("digits", split="test")
    rec = eb.record(model, data, steps=100, n=512)
    eb.spectrum(rec)

The public names stand in `__init__.pyi`. Each is imported when it is first used, so that reading a
recording loads neither torch nor diffusers."""

import os
import sys

# `python -m exposure_bias` would import libraries from the working directory before those that are
# installed. The console script does not, and neither does this.
if sys.argv[:1] == ["-m"] and sys.path[0] == os.getcwd():
    del sys.path[0]

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
