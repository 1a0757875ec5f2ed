"""The network inside a wrapper, for all families: under its own class and its own names of weights.

    torch.compile, DataParallel, DistributedDataParallel, AveragedModel,
    ema_pytorch's EMA and KarrasEMA, PEFT's models                      the network inside
    torch.export's ExportedProgram                                      its module
    FSDP1, diffusers' EMAModel, ema_pytorch's PostHocEMA, EDM2's
    PowerFunctionEMA, weights on the meta device                        refused, with the cure

FSDP2, tensor parallel networks and networks that accelerate has spread over devices or keeps
elsewhere between calls (`device_map`) are taken as they are (`running.shards`).

What runs afterwards is the network itself, eagerly. Numbers do not depend on how it
was wrapped, and hooks see every call. To run it compiled, compile it in place,
`model.net.compile()`, which wraps nothing."""

from typing import Any

from exposure_bias.errors import InputError
from exposure_bias.files.library import class_among

# The attribute in which a wrapper keeps its network.
INSIDE = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "EMA": "ema_model",
    "KarrasEMA": "ema_model",
    # With its adapters, which PEFT puts into the network's own layers.
    "PeftModel": "base_model",
    "PeftMixedModel": "base_model",
    "BaseTuner": "model",
}
# Averages of several lengths, of which one has to be chosen.
SEVERAL = {
    "PostHocEMA": "ema.synthesize_ema_model(sigma_rel=0.05)",
    "PowerFunctionEMA": "ema.get()[0][0], which is that of the first of ema.stds",
}
SHARDED = ("FullyShardedDataParallel",)


def unwrapped(value: Any) -> Any:
    """What a wrapper holds, however often it is wrapped; anything else is returned as it is.

    Raises InputError for a wrapper that holds no whole network.
    """
    while True:
        if class_among(value, ("ExportedProgram",)):
            return value.module()
        _refuse(value)
        wrapper = class_among(value, tuple(INSIDE))
        inside = getattr(value, INSIDE[wrapper], None) if wrapper else None
        if not hasattr(inside, "state_dict"):
            return value
        value = inside


def precision_note(net: Any) -> str:
    """What to say of a network whose arithmetic somebody changed from outside.

    Empty if nobody did."""
    return (
        "computes under accelerate's mixed precision" if hasattr(net, "_original_forward") else ""
    )


def _refuse(value: Any) -> None:
    if hasattr(value, "shadow_params") and hasattr(value, "copy_to"):
        raise InputError(
            f"{type(value).__name__} holds averaged weights without a network: copy them into it"
            " with ema.copy_to(net.parameters()) and give that network"
            " (ema.store(net.parameters()) first keeps its own weights for ema.restore)"
        )
    several = class_among(value, tuple(SEVERAL))
    if several:
        raise InputError(
            f"{several} holds several averages of the weights: give one of them, {SEVERAL[several]}"
        )
    if class_among(value, SHARDED):
        raise InputError(
            f"{type(value).__name__} (FSDP1) holds a share of the weights in each process: use"
            " FSDP2's torch.distributed.fsdp.fully_shard(net), or load all of them into a network"
            " of your own, net.load_state_dict(get_model_state_dict(sharded,"
            " options=StateDictOptions(full_state_dict=True))) of"
            " torch.distributed.checkpoint.state_dict, and give it"
        )
    if not hasattr(value, "named_parameters"):
        return
    absent = [name for name, parameter in value.named_parameters() if parameter.is_meta]
    if absent and not _are_fetched(value):
        name, what = (
            type(value).__name__,
            f"{len(absent)} weights on the meta device, {absent[0]} first",
        )
        raise InputError(f"{name} has {what}, where they are no numbers: {_fetch(value)}")


def _are_fetched(net: Any) -> bool:
    """Whether accelerate's hooks fetch every weight that is elsewhere when its module is called."""
    for module in net.modules():
        hook = getattr(module, "_hf_hook", None)
        hooks = (hook, *getattr(hook, "hooks", ()))
        kept = any(getattr(each, "weights_map", None) is not None for each in hooks)
        if not kept and any(p.is_meta for p in module.parameters(recurse=False)):
            return False
    return True


def _fetch(net: Any) -> str:
    if any(hasattr(module, "_hf_hook") for module in net.modules()):
        return (
            "accelerate keeps them elsewhere between calls;"
            " accelerate.hooks.remove_hook_from_module(net, recurse=True) brings them back, of a"
            " pipeline pipe.remove_all_hooks()"
        )
    return "load them first, with net.load_state_dict(weights, assign=True)"
