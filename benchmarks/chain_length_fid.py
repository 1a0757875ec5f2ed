"""Where the time of a default chain-length curve goes: `python benchmarks/chain_length_fid.py`.

The bundled digits model, features `classifier`, N = 512, lengths 10, 20, 50, 100, 300. Targets on 2
cores: 6 minutes, at least 90 % of it in the network, and no more memory than a batch of images. The
share is of processor time, which other processes on the machine do not change."""

import resource
import time

import torch

import exposure_bias as eb


def main() -> None:
    """Print wall time, the network's share and the peak memory."""
    model, data = eb.load_model("digits"), eb.load_data("digits", split="test")
    inside, began = 0.0, time.process_time()

    def before(*_: object) -> None:
        nonlocal began
        began = time.process_time()

    def after(*_: object) -> None:
        nonlocal inside
        inside += time.process_time() - began

    model.net.register_forward_pre_hook(before)
    model.net.register_forward_hook(after)
    started, computed = time.perf_counter(), time.process_time()
    curve = eb.chain_length_fid(model, data)
    wall, total = time.perf_counter() - started, time.process_time() - computed
    print(
        f"{wall:.1f} s on {torch.get_num_threads()} threads; processor time {total:.1f} s,"
        f" {inside / total:.1%} network"
    )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(
        curve[["frechet", "frechet_corrected", "frechet_corrected_se", "kid"]]
        .to_dataframe()
        .to_string()
    )


if __name__ == "__main__":
    main()
