"""CUDA graphs for training: one per micro-batch shape and one for the update; loop captures and replays them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qwen2.training.backprop import Backprop
from qwen2.training.batches import Shape


class Graphs:
    """The captured graphs and their input buffers. Empty on a CPU, and if memory was short."""

    def __init__(self) -> None:
        self.inputs: dict[Shape, Tensor] = {}  # (words,) in int64 each, on the device
        self.micros: dict[Shape, torch.cuda.CUDAGraph] = {}
        self.update: torch.cuda.CUDAGraph | None = None

    def clear(self) -> None:
        """Release the graphs and their memory."""
        self.micros.clear()
        self.inputs.clear()
        self.update = None

    def capture(
        self,
        inputs: dict[Shape, Tensor],
        backprop: Backprop,
        micro: Callable[[Shape, Tensor], None],
        update: Callable[[], None],
    ) -> None:
        """Capture the update and one graph per shape, largest first so that the others fit into its memory.

        The warm-up before it really runs `micro` and `update`: the caller must restore what they change.

        Args:
            inputs: shape -> a prepared micro-batch of it, on the device; it becomes the graph's input buffer.
            backprop: its layers are reduced while the kernels are warmed up.
            micro: forward and backward of one micro-batch.
            update: the optimizer's step.

        Raises:
            torch.OutOfMemoryError: the graphs do not fit next to the model.
        """
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()
        every = backprop.layers
        self.inputs = inputs
        for shape, words in inputs.items():
            # Two layers and the head load every kernel of this shape and size; the other layers use the same ones.
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                backprop.layers = range(min(2, len(every)))
                micro(shape, words)
                backprop.layers = every
            torch.cuda.current_stream().wait_stream(stream)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            update()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # memory freed by the warm-up would stay reserved next to the graphs' own
        for shape, words in inputs.items():
            self.micros[shape] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.micros[shape], pool=pool):
                micro(shape, words)
        self.update = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.update, pool=pool):
            update()
