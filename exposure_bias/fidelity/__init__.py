"""How good samples are: Fréchet distance, KID, precision and recall over features, with their uncertainty."""

import lazy_loader

# Lazily, because the distances need no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["features", "frechet", "inception", "jackknife", "kernel", "manifold", "moments", "sets"],
    submod_attrs={
        "features": ["extract", "extractor"],
        "inception": ["Inception"],
        "moments": ["Moments"],
        "sets": ["FeatureSet", "read_statistics", "write_statistics"],
    },
)
