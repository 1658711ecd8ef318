"""A Hugging Face PEFT adapter folder: `adapter_config.json` and `adapter_model.safetensors`,
written at once and read with suspicion.

A folder that somebody else made is data: numbers are checked before they are believed, patterns are
compared and not run, and nothing is unpickled. Needs the `safetensors` package.
"""

from __future__ import annotations

import math
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import HFAdapterError

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LARGEST_CONFIG = 64 * 1024 * 1024
"""Bytes. A config that names every expert of the largest models has a few million."""

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_LITERAL = re.compile(r"[\w.\-]+")


@dataclass(frozen=True, slots=True)
class FactorPair:
    """The factors of one linear: A `[rank, in]` and B `[out, rank]`; the product B A is scaled by
    alpha / rank.
    """

    a: torch.Tensor
    b: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """LoRA rank."""
        return int(self.a.shape[0])


class _LoraConfig(msgspec.Struct, frozen=True):
    """The fields of PEFT's `LoraConfig` on which the meaning of the weights depends; others are
    ignored.
    """

    peft_type: str
    r: int = 8
    lora_alpha: float = 8
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    lora_bias: bool = False
    modules_to_save: list[str] | None = None
    target_parameters: list[str] | None = None
    layer_replication: list[tuple[int, int]] | None = None


def write_folder(folder: Path, pairs: Mapping[str, FactorPair], *, base_model: str, dropout: float) -> None:
    """Write `pairs`, by the path of their linear in the Hugging Face model, to the new `folder`. It
    appears when it is complete.

    Raises:
        HFAdapterError: `safetensors` is missing, or the folder cannot be written.
    """
    _need_safetensors()
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for module, pair in pairs.items():
        # safetensors refuses two names for one piece of memory, which experts that share a pair
        # would have.
        tensors[f"base_model.model.{module}.lora_A.weight"] = pair.a.detach().cpu().clone().contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = pair.b.detach().cpu().clone().contiguous()
    config = msgspec.json.format(msgspec.json.encode(lora_config(pairs, base_model=base_model, dropout=dropout)))
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        (unfinished / CONFIG).write_bytes(config + b"\n")
        save_file(tensors, unfinished / WEIGHTS, metadata={"format": "pt"})
        unfinished.rename(folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise HFAdapterError(f"{folder} cannot be written: {error.strerror or error}.") from None


def lora_config(pairs: Mapping[str, FactorPair], *, base_model: str, dropout: float) -> dict[str, Any]:
    """PEFT's `LoraConfig` of these pairs. What most of them have is the rule, the others are named
    one by one.
    """
    ((rank, alpha), _), *_ = Counter((pair.rank, pair.alpha) for pair in pairs.values()).most_common(1)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole_if_possible(alpha),
        "lora_dropout": dropout,
        "target_modules": list(pairs),
        "rank_pattern": {module: pair.rank for module, pair in pairs.items() if pair.rank != rank},
        "alpha_pattern": {
            module: _whole_if_possible(pair.alpha) for module, pair in pairs.items() if pair.alpha != alpha
        },
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


@dataclass
class AdapterFolder:
    """An adapter folder that has been looked over; its tensors are read when they are asked for."""

    path: Path
    config: _LoraConfig
    weights: Any
    """safetensors' open file."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    """Path of each adapted linear -> shapes of its A and B."""

    def pair(self, module: str) -> FactorPair:
        """The pair at `module`, one of `shapes`.

        Raises:
            HFAdapterError: a factor is no tensor of floating-point numbers.
        """
        prefix = f"base_model.model.{module}.lora_"
        a, b = (self.weights.get_tensor(f"{prefix}{factor}.weight") for factor in "AB")
        if not (a.is_floating_point() and b.is_floating_point()):
            raise HFAdapterError(
                f"{self.path / WEIGHTS}: the factors of {module} are {a.dtype} and {b.dtype}, not floating-point numbers."
            )
        return FactorPair(a, b, self.alpha(module))

    def alpha(self, module: str) -> float:
        """What `alpha` would be with the scale alpha / rank, whatever way the config says it."""
        rank = self.shapes[module][0][0]
        alpha: float = _lookup(self.config.alpha_pattern, module, self.config.lora_alpha)
        return alpha * math.sqrt(rank) if self.config.use_rslora else alpha


def read_folder(folder: Path) -> AdapterFolder:
    """Look over the adapter folder at `folder`.

    Raises:
        HFAdapterError: a file is missing or damaged, or the adapter is of a kind that canonical
            LoRA has no form of.
    """
    _need_safetensors()
    from safetensors import SafetensorError, safe_open

    config: _LoraConfig = _read_config(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.is_file():
        raise HFAdapterError(
            f"{folder} has no {WEIGHTS}. Pickled weights (adapter_model.bin) are not read: save them as safetensors."
        )
    try:
        weights: Any = safe_open(path, framework="pt", device="cpu")
        shapes = {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise HFAdapterError(f"{path} is damaged or no safetensors file: {error}.") from None
    return AdapterFolder(folder, config, weights, _pair_shapes(shapes, config, path))


def read_hf_config(hf: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """The object in a model's `config.json`, which is given as itself, as its file or as its
    folder.

    Raises:
        HFAdapterError: there is none, or it says no `model_type`.
    """
    if isinstance(hf, Mapping):
        config: Any = dict(hf)
        path: object = "The Hugging Face config"
    else:
        path = Path(hf) / "config.json" if Path(hf).is_dir() else Path(hf)
        config = _read_json(path, dict[str, Any])
    if not isinstance(config.get("model_type"), str):
        raise HFAdapterError(f"{path} has no model_type, by which the linears of a Hugging Face model are named.")
    return dict(config)


def _read_config(path: Path) -> _LoraConfig:
    config: _LoraConfig = _read_json(path, _LoraConfig)
    cannot = {
        f"peft_type = {config.peft_type!r}": config.peft_type != "LORA",
        "use_dora": config.use_dora,
        "fan_in_fan_out": config.fan_in_fan_out,
        f"bias = {config.bias!r}": config.bias != "none",
        "lora_bias": config.lora_bias,
        "modules_to_save": bool(config.modules_to_save),
        "target_parameters": bool(config.target_parameters),
        "layer_replication": bool(config.layer_replication),
    }
    for what, is_so in cannot.items():
        if is_so:
            raise HFAdapterError(
                f"{path} has {what}, of which canonical LoRA has no form: it has plain pairs A and B of linears."
            )
    for pattern in (*config.rank_pattern, *config.alpha_pattern):
        if not _LITERAL.fullmatch(pattern):
            raise HFAdapterError(
                f"{path} has the pattern {pattern!r}, a regular expression; only names of modules are understood there."
            )
    return config


def _read_json(path: Path, kind: Any) -> Any:
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise HFAdapterError(f"{path} has {path.stat().st_size:,} bytes: that is no config.")
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise HFAdapterError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HFAdapterError(f"{path} is not what it should be: {error}.") from None


def _pair_shapes(
    shapes: Mapping[str, tuple[int, ...]], config: _LoraConfig, path: Path
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    factors: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise HFAdapterError(
                f"{path} has a tensor {key!r}; the factors of linears are called base_model.model.MODULE.lora_A.weight and lora_B.weight."
            )
        factors.setdefault(found["module"], {})[found["factor"]] = shape
    pairs: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for module, of in factors.items():
        a, b = of.get("A", ()), of.get("B", ())
        rank = _lookup(config.rank_pattern, module, config.r)
        if len(a) != 2 or len(b) != 2 or not a[0] == b[1] == rank:
            raise HFAdapterError(
                f"{path}: the factors of {module} have the shapes A {list(a)} and B {list(b)}, and {CONFIG} says rank {rank}: they are to be "
                f"[{rank}, in] and [out, {rank}]."
            )
        pairs[module] = (a, b)
    if not pairs:
        raise HFAdapterError(f"{path} holds no tensor.")
    return pairs


def _lookup(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that names `module` or ends it, as in PEFT."""
    return next((value for name, value in patterns.items() if module == name or module.endswith(f".{name}")), otherwise)


def _whole_if_possible(value: float) -> float:
    """Whole numbers as such: PEFT's `lora_alpha` is one where it can be."""
    return int(value) if float(value).is_integer() else value


def _need_safetensors() -> None:
    if find_spec("safetensors") is None:
        raise HFAdapterError(
            "Hugging Face adapter folders need the safetensors package: pip install 'clora-inspect[hf]'."
        )
