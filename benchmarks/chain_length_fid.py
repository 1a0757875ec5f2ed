"""Where the time of a default chain-length curve goes: `python benchmarks/chain_length_fid.py`.

The bundled digits model, features `classifier`, N = 512, lengths 10, 20, 50, 100, 300. Targets on 2 cores: 6 minutes,
at least 90 % of it in the network, and no more memory than a batch of images.
"""

import resource
import time

import torch

import exposure_bias as eb


def main() -> None:
    """Print wall time, the network's share and the peak memory."""
    model, data = eb.load_model("digits"), eb.load_data("digits", split="test")
    inside, began = 0.0, time.perf_counter()

    def before(*_: object) -> None:
        nonlocal began
        began = time.perf_counter()

    def after(*_: object) -> None:
        nonlocal inside
        inside += time.perf_counter() - began

    model.net.register_forward_pre_hook(before)
    model.net.register_forward_hook(after)
    started = time.perf_counter()
    curve = eb.chain_length_fid(model, data)
    total = time.perf_counter() - started
    print(f"{total:.1f} s on {torch.get_num_threads()} threads, {inside / total:.1%} in the network")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(curve[["frechet", "frechet_corrected", "frechet_corrected_se", "kid"]].to_dataframe().to_string())


if __name__ == "__main__":
    main()
