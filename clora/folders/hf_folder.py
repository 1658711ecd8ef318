"""Write and read the two files of a Hugging Face PEFT adapter folder.

They are `adapter_config.json` and `adapter_model.safetensors`. An export has its fingerprint beside
them (`clora.folders.fingerprint`). A folder may come from anybody, so
reading it trusts nothing: nothing is unpickled, sizes and numbers are checked before they are used,
and patterns are compared as text instead of being run. Needs the `safetensors` package.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import HFAdapterError
from clora.families.multimodal import text_values
from clora.folders.fingerprint import RecordedFingerprint, write_record
from clora.folders.new_folder import make_unfinished
from clora.folders.peft_config import PeftLora, peft_lora
from clora.folders.regular_file import read_regular_file, require_regular_file

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LARGEST_CONFIG = 64 * 1024 * 1024
"""Bytes. A config that names every expert of the largest models has a few million."""

# PEFT writes `base_model.model.` before the path in the Hugging Face model.
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_VELORA_BUFFER = ".lora_velora_embed"
"""End of the keys of VeLoRA's buffers, which only its backward pass reads."""


@dataclass(frozen=True, slots=True)
class FactorPair:
    """The factors of one linear, A `[rank, in]` and B `[out, rank]`; the scale is alpha / rank."""

    a: torch.Tensor
    b: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def write_folder(
    folder: Path,
    pairs: Mapping[str, FactorPair],
    *,
    base_model: str,
    dropout: float,
    record: RecordedFingerprint | None = None,
) -> None:
    """Write the new adapter folder `folder`, which appears when it is complete.

    Args:
        folder: a path that does not exist.
        pairs: path in the Hugging Face model -> pair. Not empty.
        base_model: name or path of the base model.
        dropout: probability of dropout, which PEFT uses if it trains the adapter further.
        record: the fingerprint of `pairs`, for a file of its own; None for none.

    Raises:
        HFAdapterError: `safetensors` is missing, or the folder cannot be written.
    """
    _need_safetensors()
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for module, pair in pairs.items():
        # safetensors refuses two names for one piece of memory, which experts that share a pair
        # would have.
        tensors[f"base_model.model.{module}.lora_A.weight"] = pair.a.detach().cpu().clone().contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = pair.b.detach().cpu().clone().contiguous()
    config = msgspec.json.format(msgspec.json.encode(lora_config(pairs, base_model=base_model, dropout=dropout)))
    unfinished = make_unfinished(folder, HFAdapterError)
    try:
        (unfinished.path / CONFIG).write_bytes(config + b"\n")
        save_file(tensors, unfinished.path / WEIGHTS, metadata={"format": "pt"})
        if record is not None:
            write_record(unfinished.path, record)
        unfinished.complete()
    except (OSError, SafetensorError) as error:
        unfinished.discard()
        reason = error.strerror if isinstance(error, OSError) else None
        raise HFAdapterError(f"{folder} cannot be written: {reason or error}.") from None
    except BaseException:
        unfinished.discard()
        raise


def lora_config(pairs: Mapping[str, FactorPair], *, base_model: str, dropout: float) -> dict[str, Any]:
    """Return PEFT's `LoraConfig` of these pairs.

    The rank and alpha of most pairs are the rule, and the others are listed by name.
    """
    ((rank, alpha), _), *_ = Counter((pair.rank, pair.alpha) for pair in pairs.values()).most_common(1)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        # `save_pretrained` of PEFT writes this too: a loaded adapter is frozen.
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole_if_possible(alpha),
        "lora_dropout": dropout,
        # Whole paths, because PEFT compares with the ends of paths: a last name such as q_proj
        # would give an adapter to every layer.
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
    """An adapter folder whose files have been checked. Tensors are read when they are needed."""

    path: Path
    config: PeftLora
    weights: Any
    """The open file, an object of safetensors without type information."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    """Path of each adapted linear -> shapes of its A and B."""

    def pair(self, module: str) -> FactorPair:
        """Read the pair of the linear at `module`, one of the keys of `shapes`.

        Raises:
            HFAdapterError: the numbers are not floating-point.
        """
        prefix = f"base_model.model.{module}.lora_"
        a, b = (self.weights.get_tensor(f"{prefix}{factor}.weight") for factor in "AB")
        if not (a.is_floating_point() and b.is_floating_point()):
            raise HFAdapterError(
                f"{self.path / WEIGHTS}: the factors of {module} are {a.dtype} and {b.dtype}, not floating-point "
                "numbers."
            )
        return FactorPair(a, b, self.alpha(module))

    def alpha(self, module: str) -> float:
        """Return the alpha with which alpha / rank is the scale of the linear at `module`."""
        rank = self.shapes[module][0][0]
        alpha = self.config.alpha(module)
        # Rank-stabilised LoRA scales by alpha / sqrt(rank).
        return alpha * math.sqrt(rank) if self.config.use_rslora else alpha


def read_folder(folder: Path) -> AdapterFolder:
    """Open the adapter folder `folder` and check its config and the shapes of its tensors.

    Raises:
        HFAdapterError: a file is missing or damaged, or the adapter has something that is not a
            pair A and B of a linear.
    """
    if not folder.is_dir():
        what = f"{folder} is a file" if folder.exists() else f"there is no folder {folder}"
        raise HFAdapterError(f"{what}. An adapter of PEFT is a folder that holds {CONFIG} and {WEIGHTS}.")
    _need_safetensors()
    from safetensors import SafetensorError, safe_open

    config = peft_lora(_read_json(folder / CONFIG, dict[str, Any]), folder / CONFIG)
    path = folder / WEIGHTS
    if not path.exists():
        raise HFAdapterError(
            f"{folder} has no {WEIGHTS}. Pickled weights (adapter_model.bin) are not read: save them as safetensors."
        )
    try:
        require_regular_file(path)
        weights: Any = safe_open(path, framework="pt", device="cpu")
        shapes = {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise HFAdapterError(f"{path} is damaged or no safetensors file: {error}.") from None
    return AdapterFolder(folder, config, weights, _pair_shapes(shapes, config, path))


def read_hf_config(hf: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Return the object in the `config.json` of a Hugging Face model.

    Args:
        hf: the object itself, the path of the file, or the path of its folder.

    Raises:
        HFAdapterError: the file is missing or damaged, or has no `model_type`.
    """
    if isinstance(hf, Mapping):
        config: Any = dict(hf)
        path: object = "The Hugging Face config"
    else:
        path = Path(hf) / "config.json" if Path(hf).is_dir() else Path(hf)
        config = _read_python_json(path)
    if not isinstance(config.get("model_type"), str):
        raise HFAdapterError(f"{path} has no model_type, by which the linears of a Hugging Face model are named.")
    return dict(config)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the text model in a model of several modalities, or else `config`."""
    return text_values(config) or config


def _read_python_json(path: Path) -> dict[str, Any]:
    """Return the object in a file as Python reads it: models of Mamba have Infinity in theirs."""
    try:
        found = json.loads(read_regular_file(path, LARGEST_CONFIG))
    except OSError as error:
        raise HFAdapterError(f"{path} cannot be read: {error.strerror or error}.") from None
    # A deeply nested file ends in a RecursionError, an integer of 4,301 digits in a ValueError.
    except (ValueError, RecursionError) as error:
        raise HFAdapterError(f"{path} is not what it should be: {error}.") from None
    if not isinstance(found, dict):
        raise HFAdapterError(f"{path} is not what it should be: it holds no object.")
    return found


def _read_json(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(read_regular_file(path, LARGEST_CONFIG), type=kind)
    except OSError as error:
        raise HFAdapterError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HFAdapterError(f"{path} is not what it should be: {error}.") from None


def _pair_shapes(
    shapes: Mapping[str, tuple[int, ...]], config: PeftLora, path: Path
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return path of a linear -> shapes of its A and B, from the shapes of all tensors.

    Raises:
        HFAdapterError: a tensor is not a factor, or the shapes of a pair do not fit its rank.
    """
    factors: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        if key.endswith(_VELORA_BUFFER):
            continue
        found = _KEY.fullmatch(key)
        if found is None:
            raise HFAdapterError(
                f"{path} has a tensor {key!r}; the factors of linears are called "
                "base_model.model.MODULE.lora_A.weight and lora_B.weight."
            )
        factors.setdefault(found["module"], {})[found["factor"]] = shape
    pairs: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for module, found_factors in factors.items():
        a, b = found_factors.get("A", ()), found_factors.get("B", ())
        rank = config.rank(module)
        if len(a) != 2 or len(b) != 2 or not a[0] == b[1] == rank:
            raise HFAdapterError(
                f"{path}: the factors of {module} have the shapes A {list(a)} and B {list(b)}, and {CONFIG} says "
                f"rank {rank}: they are to be [{rank}, in] and [out, {rank}]."
            )
        pairs[module] = (a, b)
    _refuse_tied_pair(pairs, config, path)
    if not pairs:
        raise HFAdapterError(f"{path} holds no tensor.")
    return pairs


def _refuse_tied_pair(modules: Iterable[str], config: PeftLora, path: Path) -> None:
    for module in modules if config.ensure_weight_tying else ():
        if module.rpartition(".")[2] in ("embed_tokens", "lm_head"):
            raise HFAdapterError(
                f"{path} has a pair for {module}, and {CONFIG} has ensure_weight_tying: the pair adapts the embedding "
                "and the head at once, and here it would adapt one of them. Train the adapter without that linear."
            )


def _whole_if_possible(value: float) -> float:
    """Return a whole number as an int: PEFT's own configs have one in `lora_alpha`."""
    return int(value) if float(value).is_integer() else value


def _need_safetensors() -> None:
    if find_spec("safetensors") is None:
        raise HFAdapterError(
            "Hugging Face adapter folders need the safetensors package: pip install 'clora-inspect[hf]'."
        )
