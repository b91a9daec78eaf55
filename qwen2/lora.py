"""A LoRA adapter: its fp32 weights, and reading and writing of PEFT's folder format; for train, generate, finetune.

LoRA (Hu et al. 2021, arXiv 2106.09685) is y = W x + s B A x. Linears with a shared input are one matmul here (q, k, v;
gate, up). Its LoRA is the same matmul with more columns: y = [x | h] [W | s B]^T with h = x A^T. For q, k, v, rank r:

                 K            r     r     r   padding
         +---------------+-----+-----+-----+---+            +----+
    q    |      Wq       | sBq |  0  |  0  | 0 |            | Aq |  r      x  (tokens, K)
    k    |      Wk       |  0  | sBk |  0  | 0 |        A = | Ak |  r      h  (tokens, columns = 3 r + padding)
    v    |      Wv       |  0  |  0  | sBv | 0 |            | Av |  r      y  (tokens, N = outputs of q, k and v)
         +---------------+-----+-----+-----+---+            | 0  |         A  (columns, K)
            W (N, K)         s B (N, columns)               +----+         Bq (outputs of q, r)

All weights lie in one flat fp32 tensor, so clipping, AdamW and the copy to bfloat16 take one kernel each. Its order is
layer by layer and matmul by matmul: A, then each B.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.i18n import _
from qwen2 import adapter_config
from qwen2.adapter_config import BIN_FILE, CONFIG_FILE, WEIGHTS_FILE
from qwen2.config import GROUPS, PROJECTIONS, Config
from qwen2.model import padded_columns

if TYPE_CHECKING:
    from qwen2.model import Linear, Model

_PATHS = {path.split(".")[1]: path for paths in GROUPS.values() for path in paths}
_KEY = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(self_attn|mlp)\.(\w+)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True)
class Block:
    """One matrix in the flat tensor: `shape` at `offset`."""

    offset: int
    shape: tuple[int, int]

    def of(self, flat: Tensor) -> Tensor:
        """The matrix as a view of `flat`."""
        return flat.narrow(0, self.offset, self.shape[0] * self.shape[1]).view(self.shape)


class Layout:
    """The offset of each A and B in the flat tensor.

    Per layer and matmul: A of its targets, stacked and padded to [columns, K], then each B. The padding rows of A are
    zero and stay zero: no gradient reaches them.
    """

    def __init__(self, config: Config, rank: int, targets: Sequence[str]) -> None:
        self.rank = rank
        self.targets = tuple(name for name in PROJECTIONS if name in targets)
        sizes = config.projections
        members = {g: [p.split(".")[1] for p in paths] for g, paths in GROUPS.items()}
        self.groups = {
            group: tuple(name for name in names if name in self.targets)
            for group, names in members.items()
            if any(name in self.targets for name in names)
        }
        self.a: list[dict[str, Block]] = []
        self.b: list[dict[str, Block]] = []
        offset = 0
        for _layer in range(config.num_layers):
            a, b = {}, {}
            for group, names in self.groups.items():
                a[group] = Block(offset, (self.columns(group), sizes[names[0]][1]))
                offset += math.prod(a[group].shape)
                for name in names:
                    b[name] = Block(offset, (sizes[name][0], rank))
                    offset += padded_columns(math.prod(b[name].shape))  # every block is 32-byte aligned
            self.a.append(a)
            self.b.append(b)
        self.size = offset

    def columns(self, group: str) -> int:
        """Number of columns of h in this matmul (0 when it is not a target)."""
        return padded_columns(self.rank * len(self.groups.get(group, ())))

    def a_rows(self, group: str, name: str) -> slice:
        """Rows of the stacked A (= columns of h) that belong to one linear."""
        start = self.groups[group].index(name) * self.rank
        return slice(start, start + self.rank)


class Adapter:
    """LoRA weights for one base shape. `flat` is fp32; after changing it in place, call `touch`."""

    def __init__(
        self,
        config: Config,
        rank: int,
        alpha: float,
        targets: Sequence[str] = PROJECTIONS,
        dropout: float = 0.0,
        rslora: bool = False,
        device: str | torch.device = "cpu",
        base: str = "",
    ) -> None:
        """All weights zero. Raises ValueError for an unknown target or a rank below 1.

        scaling = alpha / rank, or alpha / sqrt(rank) with rslora (Kalajdzievski 2023, arXiv 2312.03732).
        """
        unknown = [name for name in targets if name not in PROJECTIONS]
        if unknown or not targets:
            raise ValueError(
                _("LoRA targets {targets}: choose from {known} (or use ENGINE=swift for others)").format(
                    targets=list(targets), known=", ".join(PROJECTIONS)
                )
            )
        if rank < 1:
            raise ValueError(_("LoRA rank {rank}: it must be at least 1").format(rank=rank))
        self.config, self.rank, self.alpha, self.dropout, self.rslora = config, rank, alpha, dropout, rslora
        self.base = base
        self.layout = Layout(config, rank, targets)
        self.flat = torch.zeros(self.layout.size, dtype=torch.float32, device=device)
        self.version = 0

    @property
    def scaling(self) -> float:
        """The scale s in y = W x + s B A x."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def num_parameters(self) -> int:
        """Number of trained parameters, without padding."""
        sizes = self.config.projections
        return self.config.num_layers * sum(self.rank * sum(sizes[name]) for name in self.layout.targets)

    def columns(self) -> dict[str, int]:
        """Spare columns that each matmul needs."""
        return {group: self.layout.columns(group) for group in self.layout.groups}

    def touch(self) -> None:
        """Mark `flat` as changed, so that the model reloads it."""
        self.version += 1

    def a(self, layer: int, group: str) -> Tensor:
        """Stacked A of one matmul, [columns, K], a view of `flat`."""
        return self.layout.a[layer][group].of(self.flat)

    def b_blocks(self, layer: int, group: str, linear: Linear) -> Iterator[tuple[Tensor, Tensor]]:
        """(place in the spare columns, B [N, rank]) for each target of one matmul."""
        for name in self.layout.groups[group]:
            columns = self.layout.a_rows(group, name)
            spare = linear.storage[linear.rows[name], linear.inputs + columns.start : linear.inputs + columns.stop]
            yield spare, self.layout.b[layer][name].of(self.flat)

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """{PEFT's name: the matching view of `flat`}."""
        for layer in range(self.config.num_layers):
            for group, names in self.layout.groups.items():
                for name in names:
                    prefix = f"base_model.model.model.layers.{layer}.{_PATHS[name]}"
                    yield f"{prefix}.lora_A.weight", self.a(layer, group)[self.layout.a_rows(group, name)]
                    yield f"{prefix}.lora_B.weight", self.layout.b[layer][name].of(self.flat)

    def initialize(self, seed: int) -> None:
        """PEFT's initialization, drawn on the CPU: A uniform in +-1/sqrt(K) (kaiming_uniform, a = sqrt 5), B zero."""
        generator = torch.Generator().manual_seed(seed)
        for name, view in self.named():
            if ".lora_A." in name:
                bound = 1 / math.sqrt(view.shape[1])
                drawn = torch.rand(view.shape, generator=generator) * (2 * bound) - bound
                view.copy_(drawn)
            else:
                view.zero_()
        self.touch()

    def check(self, config: Config) -> None:
        """Raises ValueError if this adapter is for a different base shape."""
        if config.projections != self.config.projections or config.num_layers != self.config.num_layers:
            raise ValueError(
                _("the adapter was made for a model of another shape: use the base model it was trained on")
            )

    def _take(self, view: Tensor, value: Tensor | None, name: str, rank: int, alpha: float) -> None:
        """Copy one A or B of rank `rank` into its view. The view's additional rows or columns stay zero.

        A linear with its own alpha or rank has its own scale, which is folded into its B.
        """
        if value is None:
            raise ValueError(_("{name} is missing; the adapter is for another model or incomplete").format(name=name))
        is_b = ".lora_B." in name
        wanted = (view.shape[0], rank) if is_b else (rank, view.shape[1])
        if tuple(value.shape) != wanted:
            raise ValueError(
                _(
                    "{name} has shape {shape}, this model and rank {rank} need {wanted}; use the base model "
                    "that the adapter was trained on"
                ).format(name=name, shape=list(value.shape), rank=rank, wanted=list(wanted))
            )
        if not torch.isfinite(value).all():
            raise ValueError(
                _("{name} holds NaN or infinity; train again or use an older checkpoint").format(name=name)
            )
        scale = alpha / (math.sqrt(rank) if self.rslora else rank) / self.scaling if is_b and self.scaling else 1.0
        if scale != 1.0:
            value = value.float() * scale
        view[: wanted[0], : wanted[1]].copy_(value)

    # ---- PEFT's folder

    def save(self, folder: str | Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors (fp32) into `folder`, which is created if needed."""
        from safetensors.torch import save_file

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        tensors = {name: view.detach().to("cpu", copy=True).contiguous() for name, view in self.named()}
        save_file(tensors, str(path / WEIGHTS_FILE), metadata={"format": "pt"})
        settings = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": list(self.layout.targets),
            "use_rslora": self.rslora,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "modules_to_save": None,
            "use_dora": False,
        }
        (path / CONFIG_FILE).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, model: Model) -> Adapter:
        """Read a PEFT LoRA folder for this model, onto its device.

        Raises ValueError (the message is for the user) for another base shape, a broken file or an unsupported adapter.
        """
        path = Path(folder)
        settings = adapter_config.read(path)
        if reason := adapter_config.not_plain(settings):
            raise ValueError(
                _("{path}: {reason} is not supported by the fast lane").format(path=path / CONFIG_FILE, reason=reason)
            )
        file, tensors = read_tensors(path)
        targets = {_target(file, key) for key in tensors}
        if not targets:
            raise ValueError(_("{file} holds no LoRA weights: the folder is not a LoRA adapter").format(file=file))
        try:
            modules = [f"model.layers.{n}.{_PATHS[t]}" for n in range(model.config.num_layers) for t in targets]
            rank = max(adapter_config.rank(settings, module) for module in modules)
            alpha, dropout = float(settings.get("lora_alpha", 8)), float(settings.get("lora_dropout") or 0.0)
            alphas = {module: adapter_config.alpha(settings, module) for module in modules}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                _("{path}: r or lora_alpha is missing or not a number ({error})").format(
                    path=path / CONFIG_FILE, error=error
                )
            ) from None
        adapter = cls(
            model.config,
            rank,
            alpha if alpha != int(alpha) else int(alpha),
            sorted(targets),
            dropout,
            bool(settings.get("use_rslora")),
            device="cpu",
            base=str(settings.get("base_model_name_or_path") or ""),
        )
        partial = any(settings.get(key) for key in adapter_config.PARTIAL)
        for name, view in adapter.named():
            value = tensors.pop(name, None)
            if value is None:
                value = tensors.pop(name.replace(".weight", ".default.weight"), None)
            if value is None and partial:
                continue  # stays zero
            module = name.removeprefix("base_model.model.").rsplit(".lora_", 1)[0]
            adapter._take(view, value, f"{file}: {name}", adapter_config.rank(settings, module), alphas[module])
        if tensors:
            raise ValueError(
                _("{file}: {key} does not exist in this model: the adapter is for another base").format(
                    file=file, key=next(iter(tensors))
                )
            )
        adapter.flat = adapter.flat.to(model.device)
        adapter.touch()
        return adapter


def _target(file: Path, key: str) -> str:
    """The linear that a key of the weights belongs to. Raises ValueError if it is not one of the seven."""
    match = _KEY.fullmatch(key)
    if match is None or _PATHS.get(match[3]) != f"{match[2]}.{match[3]}":
        raise ValueError(
            _("{file}: {key} is not a LoRA weight of one of the seven linear layers").format(file=file, key=key)
        )
    return match[3]


def read_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The weights in an adapter folder, and their file: safetensors, else PEFT's older .bin.

    Never runs code from a .bin. Raises ValueError with a message for the user.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS_FILE
    if not file.exists() and (folder / BIN_FILE).exists():
        return folder / BIN_FILE, _read_bin(folder / BIN_FILE)
    try:
        return file, load_file(os.fspath(file), device="cpu")
    except FileNotFoundError:
        raise ValueError(
            _("no {name} in {folder}: the adapter is incomplete; use another checkpoint").format(
                name=WEIGHTS_FILE, folder=folder
            )
        ) from None
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(
            _("{file} cannot be read ({error}); use another checkpoint").format(file=file, error=error)
        ) from None


def _read_bin(file: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(
            _(
                "{file} cannot be read without running code from it ({kind}); load it with PEFT where it was "
                "made and save it as {name} (save_pretrained does so)"
            ).format(file=file, kind=type(error).__name__, name=WEIGHTS_FILE)
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(
            _("{file} holds no table of tensors, so it is not an adapter; use another checkpoint").format(file=file)
        )
    return {str(key): value for key, value in tensors.items()}
