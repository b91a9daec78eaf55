"""The options of ms-swift's server with vLLM (BACKEND=vllm), for more than one GPU; commands/serve.py calls it.

The file is not called vllm.py: ms-swift puts a plugin's folder on Python's path, and `import vllm` would find it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from common.errors import UserError
from common.i18n import _
from finetune.engines.swift.arguments import Arguments
from qwen2 import adapter_config

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM 0.19 supports (vllm/config/lora.py)
SPREAD = ("vllm_tensor_parallel_size", "vllm_pipeline_parallel_size", "vllm_data_parallel_size")


def prepare(args: Arguments, served: Mapping[str, Path]) -> None:
    """Change the options of `swift deploy` to those of vLLM. The user's own options (parallelism, memory) are kept.

    Args:
        args: The options on the command line, which are changed.
        served: {name: folder} of the adapters.

    Raises:
        UserError: vLLM is not in this image, more GPUs are asked for than are visible, or an adapter's rank is larger
            than vLLM supports.
    """
    if find_spec("vllm") is None:
        raise UserError(
            _("BACKEND=vllm: this image has no vLLM; build one that has it (make build SERVE=vllm), or unset BACKEND")
        )
    args.set("infer_backend", "vllm")
    args.remove("max_batch_size")
    _require_gpus(args)
    ranks = [_rank(path) for path in served.values()]
    if ranks and args.get("vllm_max_lora_rank") is None:
        most = next((rank for rank in RANKS if rank >= max(ranks)), None)
        if most is None:
            raise UserError(
                _(
                    "an adapter has rank {rank}, and vLLM supports at most {most}; merge it and serve "
                    "the merged model: {merge}"
                ).format(rank=max(ranks), most=RANKS[-1], merge=_("merge.sh DIR, then serve.sh --model DIR-merged"))
            )
        args.set("vllm_max_lora_rank", str(most))


def _rank(adapter: Path) -> int:
    settings = adapter_config.read(adapter)
    pattern = settings.get("rank_pattern") or {}
    return max(int(settings.get("r", 8)), *(int(rank) for rank in pattern.values()), 1)


def _require_gpus(args: Arguments) -> None:
    """Raises UserError if CUDA_VISIBLE_DEVICES names fewer GPUs than the parallelism needs."""
    needed = 1
    for name in SPREAD:
        text = (args.get(name) or ["1"])[-1]
        if not text.isdigit() or int(text) < 1:
            raise UserError(
                _("--{name} {text}: not a number of GPUs; give one, for example 2").format(name=name, text=text)
            )
        needed *= int(text)
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len([each for each in named.split(",") if each.strip()]) if named is not None else None
    if count is not None and needed > count:
        raise UserError(
            _(
                "{needed} GPUs are asked for and CUDA_VISIBLE_DEVICES={named} shows {count}; name more there, "
                "or lower --vllm_tensor_parallel_size or --vllm_data_parallel_size"
            ).format(needed=needed, named=named, count=count)
        )
