"""Which processes hold one network together.

A network may be larger than a device. Then several processes hold parts of it, and all of them must
call it together, on the same states:

    FSDP2's `fully_shard`, tensor parallel plans    parameters are DTensors on a mesh of processes
    diffusers' `enable_parallelism`                 the same, or attention shares a sequence

Where a mesh has further dimensions along which parameters are copies, the copies are networks of
their own and share the samples.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch

from exposure_bias.files.library import class_among


def holders(net: Any, rank: int) -> tuple[int, ...]:
    """The processes that call a network together with this one, in order; this one alone for most.

    Parameters
    ----------
    net : object
        A module, or a function, which is its own process's.
    rank : int
        This process.
    """
    together = {rank}
    if isinstance(net, torch.nn.Module):
        module: Any
        for module in net.modules():
            # After a call FSDP2's root keeps whole parameters, which bear no mesh.
            if class_among(module, ("FSDPModule",)):
                module.reshard()
        for ranks in chain(_of_parameters(net), _of_attention(net)):
            together |= ranks
    return tuple(sorted(together))


def _of_parameters(net: torch.nn.Module) -> Iterator[set[int]]:
    for tensor in chain(net.parameters(), net.buffers()):
        mesh, placements = (getattr(tensor, name, None) for name in ("device_mesh", "placements"))
        coordinate = None if mesh is None else mesh.get_coordinate()
        if mesh is None or placements is None or coordinate is None:
            continue
        # Along a dimension in which it is copied only this process's own place counts.
        index = tuple(
            here if placement.is_replicate() else slice(None)
            for here, placement in zip(coordinate, placements, strict=True)
        )
        yield set(mesh.mesh[index].flatten().tolist())


def _of_attention(net: torch.nn.Module) -> Iterator[set[int]]:
    """diffusers' own configuration of a network whose attention shares a sequence."""
    config = getattr(net, "_parallel_config", None)
    shared = getattr(config, "context_parallel_config", None)
    mesh = getattr(shared, "_flattened_mesh", None)
    if mesh is not None:
        yield set(mesh.mesh.flatten().tolist())
