"""Check 7: loads the weights and runs a fixed prompt: output finite, in bf16, of the right shape, and repeatable.

It loads through qwen2, with the same loader and model as training, and is the only check that imports torch.
"""

from __future__ import annotations

import math
from typing import Any

from common.i18n import N_, _
from healthchecks.checks import tokenizer
from healthchecks.context import GIB, Context, Failure, Outcome, gib

# An everyday sentence, and the highest mean negative log-likelihood that the real model may give it, in nats per token.
# Uniform guessing over 152,064 entries gives ln 152064 = 11.9. Not tested on the real weights, so it only warns.
SENTENCE = "今天天气很好,我和朋友一起去公园散步,然后回家吃了晚饭。"
NLL_LIMIT = 5.0
CPU_LIMIT_BYTES = 4 * GIB  # larger weights take minutes on a CPU

DAMAGED = N_("`healthcheck startup --checksum` tells which file is damaged; build or pull the image again")


def check(context: Context) -> Outcome:
    """Outcome with device and figures. Raises Failure: non-finite, not-repeatable, out-of-memory, torch or model."""
    if context.gpu is None and context.weight_bytes > CPU_LIMIT_BYTES:
        return Outcome(
            _("not tried: {gib} of weights on a CPU would take minutes").format(gib=gib(context.weight_bytes)),
            "skip",
            "cpu",
        )
    try:
        torch = context.torch()
        from qwen2.model import Model
    except Exception as error:
        raise Failure(
            "torch",
            _("torch cannot be imported: {name}: {reason}").format(name=type(error).__name__, reason=error),
            _("undo what was installed or mounted over /opt/venv, or build the image again"),
        ) from error
    device = "cuda" if context.gpu is not None else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise Failure(
            "no-cuda",
            _("NVML shows a GPU, but torch cannot start CUDA on it"),
            _(
                "run `python -c 'import torch; torch.zeros(1).cuda()'` in the container for CUDA's own "
                "words; often CUDA_VISIBLE_DEVICES, or a GPU in exclusive mode that another process holds"
            ),
        )
    cuda = torch.cuda if device == "cuda" else None
    if cuda:
        cuda.reset_peak_memory_stats()
    try:
        if context.model is not None and device == "cuda":
            model = context.model()
        else:
            model = Model.load(
                context.model_dir,
                device,
                torch.bfloat16,
                progress=lambda done, total: context.progress("load", done, total),
            )
        outcome = _try(context, torch, model, device)
    except torch.OutOfMemoryError as error:
        assert context.gpu is not None
        raise Failure(
            "out-of-memory",
            _("the GPU ran out of memory: {reason}").format(reason=str(error).splitlines()[0]),
            _("end what else uses the GPU (nvidia-smi on the host), or use one with 24 GB"),
        ) from error
    except ValueError as error:
        raise Failure("model", str(error), DAMAGED) from error
    except RuntimeError as error:
        raise Failure("cuda-error" if cuda else "model", str(error).splitlines()[0], CUDA_REMEDY) from error
    finally:
        if cuda:
            context.peak = (cuda.max_memory_allocated(), cuda.max_memory_reserved())
    del model
    if cuda and context.model is None:
        cuda.empty_cache()
        context.left = (cuda.memory_allocated(), cuda.memory_reserved())
    return outcome


CUDA_REMEDY = N_("`dmesg | grep Xid` on the host shows whether the GPU is at fault; otherwise please report this line")


def _try(context: Context, torch: Any, model: Any, device: str) -> Outcome:
    prompt = tokenizer.PROMPT_IDS if tokenizer.is_official(context) else tokenizer.prompt_ids(context.model_dir)
    ids = torch.tensor([prompt], device=device)
    first = model.forward(ids)
    _check_finite(torch, model, first)
    wanted = (1, len(prompt), model.config.vocab_size)
    if tuple(first.shape) != wanted or first.dtype != torch.bfloat16:
        raise Failure(
            "wrong-logits",
            _("the logits are {dtype} {tuple}, not bfloat16 {wanted}").format(
                dtype=first.dtype, tuple=tuple(first.shape), wanted=wanted
            ),
            REPORT,
        )
    if not torch.equal(first, model.forward(ids)):
        raise Failure(
            "not-repeatable",
            _("the same prompt gave other logits the second time"),
            _("faulty memory or an unstable clock: look at `nvidia-smi -q -d ECC` and `dmesg | grep Xid` on the host"),
        )
    figure = _("{count} tokens in bf16 on {device}").format(
        count=len(prompt), device=_("the CPU") if device == "cpu" else context.gpu and context.gpu.name
    )
    if context.kind.is_for_tests:
        figure += f", {_(context.kind.title)}"
    if not context.sums_match:
        return Outcome(figure)
    nll = _mean_nll(context, torch, model, device)
    figure += _(", {nll:.2f} nats a token on a Chinese sentence").format(nll=nll)
    if nll < NLL_LIMIT:
        return Outcome(figure)
    return Outcome(
        figure,
        "warn",
        "unlikely-sentence",
        _("the official weights should find an everyday sentence likelier (below {nll_limit:g} nats a token)").format(
            nll_limit=NLL_LIMIT
        ),
        _("the loader or the GPU computes something else than the model: {damaged}, then please report it").format(
            damaged=_(DAMAGED)
        ),
    )


REPORT = N_("a defect of this image: please report it with the output of `healthcheck report --json`")


def _check_finite(torch: Any, model: Any, logits: Any) -> None:
    """Check that every weight and logit is finite. Weights too: no prompt shows a NaN in a rare character's row."""
    for name, tensor in model.checkpoint_tensors().items():
        low, high = torch.aminmax(tensor)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise Failure("non-finite", _("the weight {name} holds NaN or infinity").format(name=name), DAMAGED)
    if not bool(torch.isfinite(logits).all()):
        raise Failure("non-finite", _("the logits hold NaN or infinity though no weight does"), DAMAGED)


def _mean_nll(context: Context, torch: Any, model: Any, device: str) -> float:
    """Mean of -ln p(token | earlier tokens) over SENTENCE without its first token, in nats."""
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(context.model_dir / "tokenizer.json"))
    ids = torch.tensor([reader.encode(SENTENCE, add_special_tokens=False).ids], device=device)
    logits = model.forward(ids)[0, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))
