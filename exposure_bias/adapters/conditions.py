"""What a network is told of prompts: tables of embeddings, a row for each prompt.

A model of K > 1 prompts takes an index 0 … K − 1 for each sample, in the way in which a
class-conditional model takes a label; a model of one prompt takes none. The tables stay where they
were made, and a batch's rows go to the network's device when the batch begins.

With a guidance scale w the network sees both conditionings in one batch and ε̂ = ε_∅ + w (ε_c −
ε_∅) (Ho & Salimans 2022, arXiv 2207.12598, eq. 6); a learned variance is that of the conditional
half, as in `DiTPipeline`. A network with a guidance embedding is told w instead, and sees one
conditioning."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exposure_bias.adapters.families import Family, Told, class_of
from exposure_bias.errors import InputError

Call = Callable[..., Tensor]
NEGATIVE = "negative_"
EMBEDDINGS = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask")
NAMES = (*EMBEDDINGS, *(NEGATIVE + name for name in EMBEDDINGS), "add_time_ids")


@dataclass(frozen=True, eq=False)
class Conditions:
    """Embeddings of K prompts.

    tables: by name, each (K, …). negative: what guidance leads away from, each (1, …) or (K, …);
    empty without guidance."""

    tables: Mapping[str, Tensor]
    negative: Mapping[str, Tensor]
    _latest: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """K, 0 where there are no embeddings."""
        return max((len(table) for table in self.tables.values()), default=0)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of a SHA-256 over names, shapes and values."""
        digest = hashlib.sha256()
        for sign, tables in (("", self.tables), (NEGATIVE, self.negative)):
            for name, table in sorted(tables.items()):
                values = table.detach().cpu().double() if table.is_floating_point() else table.cpu()
                digest.update(f"{sign}{name}{tuple(table.shape)}".encode())
                digest.update(np.ascontiguousarray(values.numpy()).tobytes())
        return digest.hexdigest()[:16]

    def rows(self, index: Tensor | None, x: Tensor) -> dict[str, Tensor]:
        """The rows of a batch x, on its device; under guidance (2B, …), the negative ones first."""
        if not self.tables:
            return {}
        chosen = torch.zeros(len(x), dtype=torch.int64) if index is None else index.cpu()
        key = (tuple(chosen.tolist()), x.device, x.dtype)
        if self._latest.get("key") != key:  # the steps of a chain ask for the same rows
            self._latest.update(key=key, rows=self._gathered(chosen, x))
        rows: dict[str, Tensor] = self._latest["rows"]
        return rows

    def _gathered(self, chosen: Tensor, x: Tensor) -> dict[str, Tensor]:
        rows = {}
        for name, table in self.tables.items():
            parts = [table]
            if self.negative:
                parts.insert(0, self.negative.get(name, table))
            picked = [p[chosen % len(p)].to(x.device, _kind(p, x)) for p in parts]
            rows[name] = torch.cat(picked)
        return rows


def _kind(table: Tensor, x: Tensor) -> torch.dtype:
    """Embeddings have the state's precision; a mask keeps its own."""
    return x.dtype if table.is_floating_point() else table.dtype


def conditions(
    net: Any, family: Family, given: Mapping[str, Tensor | None], guided: bool
) -> Conditions:
    """The embeddings that a network takes, of those that were given.

    guided: whether the network sees two conditionings. Raises InputError for embeddings that are
    missing, of no use, misshapen, or not as many as the others."""
    came = {name: value for name, value in given.items() if value is not None}
    name, config = type(net).__name__, net.config
    takes, optional = [*family.takes], [*family.optional]
    if config.get("addition_embed_type") == "text_time":
        takes.append("pooled_prompt_embeds")
        optional.append("add_time_ids")
    signs = (NEGATIVE, "") if guided else ("",)
    needs = [sign + key for key in takes for sign in signs]
    allowed = [*needs, *(s + key for key in optional for s in signs if key != "add_time_ids")]
    how = "with" if guided else "without"
    for key in needs:
        if key not in came:
            raise InputError(
                f"{name} {how} guidance needs {key}=, a tensor (K, …) with a row for each of K"
                " prompts, as pipe.encode_prompt returns it; or give the prompts themselves,"
                " prompts=[…] (--prompts FILE)"
            )
    for key, value in came.items():
        if key not in allowed and key not in optional:
            raise InputError(f"{name} {how} guidance does not take {key}: leave it out")
        if not isinstance(value, Tensor) or value.dim() < 2 or not len(value):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{key} is {shape}: give a tensor (K, …), a row for each of K prompts")
    found = Conditions(
        {k: v.detach() for k, v in came.items() if not k.startswith(NEGATIVE)},
        {k.removeprefix(NEGATIVE): v.detach() for k, v in came.items() if k.startswith(NEGATIVE)},
    )
    _check_shapes(found, name, config)
    return found


def _check_shapes(found: Conditions, name: str, config: Any) -> None:
    """Raise InputError unless all tables fit each other and the network."""
    for key, table in found.tables.items():
        negative = found.negative.get(key)
        for sign, one in (("", table), (NEGATIVE, negative)):
            if one is not None and len(one) not in (1, found.count):
                raise InputError(
                    f"{sign}{key} has {len(one)} rows, but there are {found.count} prompts: give"
                    " one row for each, or one for all"
                )
        if negative is not None and negative.shape[1:] != table.shape[1:]:
            raise InputError(
                f"{NEGATIVE}{key} and {key} differ in shape, {tuple(negative.shape)} and"
                f" {tuple(table.shape)}: encode them alike"
            )
    width = next(
        (w for key in ("joint_attention_dim", "caption_channels", "text_embed_dim", "text_dim")
         if isinstance(w := config.get(key), int)),
        config.get("cross_attention_dim"),
    )  # fmt: skip
    embeddings = found.tables.get("prompt_embeds")
    if embeddings is not None and isinstance(width, int) and embeddings.shape[2:] != (width,):
        raise InputError(
            f"prompt_embeds has shape {tuple(embeddings.shape)}, but this {name} takes (K, tokens,"
            f" {width})"
        )


def scale_of(guidance: float | None) -> float | None:
    """A guidance scale, None where nothing is guided. Raises InputError below 1."""
    if guidance is None or (isinstance(guidance, int | float) and guidance == 1):
        return None
    if not isinstance(guidance, int | float) or not 1 < guidance < np.inf:
        raise InputError(
            f"guidance_scale is {guidance!r}: give a number above 1 to guide, None or 1 not to"
        )
    return float(guidance)


def embeds_guidance(net: Any) -> bool:
    """Whether a network is told the guidance scale."""
    return bool(net.config.get("guidance_embeds"))


def calling(net: Any, family: Family, told: Told, found: Conditions, scale: float | None) -> Call:
    """How a Denoiser calls a network on states, times, and labels or indices of prompts."""

    def plain(net: Any, x: Tensor, timestep: Tensor, labels: Tensor | None = None) -> Tensor:
        rows = found.rows(labels, x)
        if labels is not None and not rows:
            rows = {"labels": labels}
        return family.called(net, told, x, timestep, rows)

    def guided(net: Any, x: Tensor, timestep: Tensor, labels: Tensor | None = None) -> Tensor:
        if found.tables:
            rows = found.rows(labels, x)
        else:
            assert labels is not None
            rows = {"labels": torch.cat([torch.full_like(labels, null), labels])}
        both = family.called(net, told, torch.cat([x, x]), torch.cat([timestep, timestep]), rows)
        return _guided(family, both, scale or 1.0, x.shape[1])

    if scale is None or embeds_guidance(net):
        return plain
    null = 0 if found.tables else _null_class(net)
    return guided


def _guided(family: Family, both: Tensor, scale: float, channels: int) -> Tensor:
    unconditional, conditional = both.chunk(2)
    u, c = unconditional[:, :channels], conditional[:, :channels]
    return torch.cat([family.guide(u, c, scale), conditional[:, channels:]], dim=1)


def _null_class(net: Any) -> int:
    """DiT's extra label, which stands for no class."""
    if class_of(net) != "DiTTransformer2DModel":
        raise InputError(
            f"{type(net).__name__} has no null class to guide away from: leave guidance_scale out"
        )
    return int(net.config.num_embeds_ada_norm)
