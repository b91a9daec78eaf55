"""The end of a step: clipping, AdamW, the schedule, updated copies of the adapter in the model's dtype; for loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qwen2 import ops
from qwen2.lora import Adapter
from qwen2.model import ActiveLora, Model
from qwen2.training.settings import TrainSettings


class Update:
    """The optimizer's state on the device, and the sums of a step: gradient, loss, hits.

    All parameters of the adapter lie in one flat tensor, and so do their gradient and AdamW's two moments.
    """

    def __init__(
        self,
        model: Model,
        adapter: Adapter,
        settings: TrainSettings,
        total: int,
        moments: tuple[Tensor, Tensor] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Moves the adapter to the model's device and installs it in the model.

        Args:
            model: the model to train; its matmuls get room for s B.
            adapter: the adapter to train; `adapter.flat` is (parameters,) in float32.
            settings: learning rate, AdamW's constants and the gradient clipping norm.
            total: optimizer steps of the whole run.
            moments: AdamW's first and second moment, each (parameters,), of a resumed run.
            state: trainer_state.json of the resumed checkpoint.
        """
        device, state = model.device, state or {}
        self.model, self.adapter, self.settings = model, adapter, settings
        adapter.flat = adapter.flat.to(device)
        self.first, self.second = moments or (torch.zeros_like(adapter.flat), torch.zeros_like(adapter.flat))
        # The sums over all processes, once per step, in one tensor: the gradient, then three numbers.
        count = adapter.flat.numel()
        self.sums = torch.zeros(count + 3, dtype=adapter.flat.dtype, device=device)
        self.grad = self.sums[:count]
        self.loss, self.hits, self.stops = self.sums[count:].unbind()
        self.start_step = int(state.get("global_step", 0))
        self.rate_list = [settings.learning_rate_at(step, total) for step in range(total)]
        self.rates = torch.tensor(self.rate_list, dtype=torch.float32, device=device)  # (steps,)
        self.done = torch.tensor([self.start_step], dtype=torch.int64, device=device)
        self.adam_step = torch.tensor(float(self.start_step), device=device)
        # (steps, 3): loss, gradient norm and hits of every step; filled on the device, read when a line is logged
        self.history = torch.zeros(total, 3, dtype=torch.float32, device=device)
        if state:
            self.history[: self.start_step] = torch.tensor(state["history"], device=device)
        self._install()

    def _install(self) -> None:
        """Make room in the model for s B, and store A in its dtype as views of one flat copy."""
        model, adapter = self.model, self.adapter
        model.deactivate()
        model.reserve(adapter.columns())
        model.install(adapter)
        layout, dtype = adapter.layout, model.dtype
        self.flat_lowp = adapter.flat if dtype == torch.float32 else torch.empty_like(adapter.flat, dtype=dtype)
        self.lora = ActiveLora([{group: a[group].of(self.flat_lowp) for group in a} for a in layout.a])
        pairs = [
            (target, layout.b[number][name])
            for number, layer in enumerate(model.layers)
            for group, names in layout.groups.items()
            for name, (target, _) in zip(names, adapter.b_blocks(number, group, layer.linears[group]), strict=True)
        ]
        self.b_pairs = [(target, block.of(adapter.flat)) for target, block in pairs]
        self.kernels = ops.triton_kernels() if model.device.type == "cuda" and dtype == torch.bfloat16 else None
        if self.kernels is not None:
            self.table = self.kernels.place_table([(target, block.offset) for target, block in pairs], model.device)
        self.refresh()

    def refresh(self) -> None:
        """Update the copies of A and s B in the model's dtype."""
        if self.flat_lowp is not self.adapter.flat:
            self.flat_lowp.copy_(self.adapter.flat)
        if self.kernels is not None:
            self.kernels.place_blocks(self.table, self.adapter.flat, self.adapter.scaling, self.adapter.rank)
            return
        for target, source in self.b_pairs:
            target.copy_(source * self.adapter.scaling)

    def apply(self) -> None:
        """Clip, run AdamW, record the figures and update the weight copies; ready for the next step."""
        s = self.settings
        norm = torch.linalg.vector_norm(self.grad)
        if s.max_grad_norm > 0:  # torch.nn.utils.clip_grad_norm_'s formula
            self.grad.mul_((s.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        self.adam_step += 1
        on_gpu = self.grad.device.type == "cuda"
        rate: Any = self.rates.index_select(0, self.done)[0] if on_gpu else self.rate_list[int(self.done)]
        torch._fused_adamw_(
            [self.adapter.flat], [self.grad], [self.first], [self.second], [], [self.adam_step],
            lr=rate, beta1=s.adam_beta1, beta2=s.adam_beta2, weight_decay=s.weight_decay, eps=s.adam_epsilon,
            amsgrad=False, maximize=False,
        )  # fmt: skip
        self.history.index_copy_(0, self.done, torch.stack((self.loss, norm, self.hits))[None])
        self.done += 1
        self.sums.zero_()
        self.refresh()

    def kept(self, initial: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The tensors that a warm-up changes, with host copies: (tensor, copy). `initial` is the adapter's values.

        The copies are on the host because every GiB of the device counts during a capture. Moments that are still zero
        are not copied.
        """
        changed = [self.adam_step, self.done, self.history]
        if self.start_step:
            changed += [self.first, self.second]
        return [(self.adapter.flat, initial.cpu()), *((tensor, tensor.cpu()) for tensor in changed)]

    def restore(self, kept: list[tuple[Tensor, Tensor]]) -> None:
        """Undo all changes since `kept`."""
        for total in (self.sums, self.first, self.second):
            total.zero_()
        for target, value in kept:
            target.copy_(value)
        self.refresh()
