"""Is an answer right against its own row's reference? `Judge` decides it for any dataset; see docs/verify.md."""

from finetune.verify.judge.judge import Judge, Judgement, Reference
from finetune.verify.judge.rouge import rouge_l

__all__ = ["Judge", "Judgement", "Reference", "rouge_l"]
