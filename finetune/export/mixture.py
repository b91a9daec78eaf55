"""Which ggml type each tensor of a GGUF gets: llama.cpp's own mixtures (src/llama-quant.cpp), for a Qwen2.

The rules are those of llama.cpp 0.6; a test compares them with files that llama.cpp 0.5 quantized. In Q4_K_M and Q5_K_M
the output head is Q6_K, and so are attn_v and ffn_down in the first and last eighth of the layers and in every third
layer between. A model with tied embeddings has no separate head: its embedding takes the head's type.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as Kind

# quant -> the type of most tensors, and the value of general.file_type.
QUANTS: dict[str, tuple[Kind, LlamaFileType]] = {
    "q4_k_m": (Kind.Q4_K, LlamaFileType.MOSTLY_Q4_K_M),
    "q5_k_m": (Kind.Q5_K, LlamaFileType.MOSTLY_Q5_K_M),
    "q8_0": (Kind.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "f16": (Kind.F16, LlamaFileType.MOSTLY_F16),
}
# K-quants pack blocks of 256 weights. If a row is no multiple of that, the nearest type with blocks of 32 is used.
_FALLBACK = {Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}


@dataclass(frozen=True)
class Mixture:
    """The types of one file: `quant` is a key of QUANTS, `layers` and `tied` are the model's."""

    quant: str
    layers: int
    tied: bool

    def kind(self, name: str, shape: tuple[int, ...]) -> Kind:
        """The type of a tensor, by its name in the GGUF and its shape [rows, columns] or [n]."""
        if len(shape) < 2:
            return Kind.F32
        base, _ = QUANTS[self.quant]
        if base is Kind.F16:
            return Kind.F16
        columns = shape[-1]
        wanted: Kind = base
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            if columns % _block(base):
                wanted = Kind.Q8_0
            elif base is not Kind.Q8_0:
                wanted = Kind.Q6_K
        elif base is not Kind.Q8_0 and self._more_bits(name):
            wanted = Kind.Q6_K
        if columns % _block(wanted):
            wanted = _FALLBACK.get(wanted, Kind.F16)
        return Kind.F16 if columns % _block(wanted) else wanted

    def _more_bits(self, name: str) -> bool:
        parts = name.split(".")
        if parts[0] != "blk" or parts[2] not in ("attn_v", "ffn_down"):
            return False
        layer, eighth = int(parts[1]), self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2


def row_bytes(kind: Kind, columns: int) -> int:
    """Bytes of one row."""
    block, size = GGML_QUANT_SIZES[kind]
    return columns // block * size


def _block(kind: Kind) -> int:
    return GGML_QUANT_SIZES[kind][0]
