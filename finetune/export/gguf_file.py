"""Writes the GGUF: the library gguf writes the metadata; threads read, merge, quantize and write pieces of the weights.

Each thread holds one piece in memory. The file gets its final length first: a disk that is too small fails before the
work, and every piece can be written at its own offset.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib import resources as package
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_VERSION, GGUFWriter, TokenType
from gguf import GGMLQuantizationType as Kind

from common.errors import FAILED, UserError
from common.i18n import _
from finetune.export import llamacpp
from finetune.export.mixture import QUANTS, Mixture, row_bytes
from finetune.export.vocabulary import Vocabulary
from finetune.export.weights import TensorSource, Weights
from qwen2.config import Config

PIECE = 4 << 20  # weights of one piece: 16 MiB in float32
Progress = Callable[[int, int], None]
Importance = dict[str, npt.NDArray[np.float32]]  # name of a tensor -> [columns], the weight of an error in each column


@dataclass(frozen=True)
class About:
    """Metadata of the file, besides shape and vocabulary."""

    name: str
    licence: str
    system: str
    sampling: dict[str, float]  # any of temperature, top_k, top_p, repeat_penalty


@dataclass(frozen=True)
class TensorPlace:
    """A tensor with its type and its offset in the file."""

    source: TensorSource
    kind: Kind
    offset: int
    importance: npt.NDArray[np.float32] | None = None  # [columns]; None: all columns weigh the same

    @property
    def stride(self) -> int:
        """Bytes of one row."""
        return row_bytes(self.kind, self.source.columns)


def chat_template(system: str) -> str:
    """The Qwen2.5 chat template with tools, as it was used in training. `system` is the default system prompt."""
    text = package.files("finetune.export").joinpath("chat_template.jinja").read_text(encoding="utf-8")
    return text.replace("@SYSTEM@", json.dumps(system, ensure_ascii=False))


def mixture_of(weights: Weights, quant: str) -> Mixture:
    """The types of the tensors in a file; `quant` is a key of mixture.QUANTS."""
    return Mixture(quant, weights.config.num_layers, weights.config.tie_embeddings)


def size_of(weights: Weights, quant: str) -> int:
    """Bytes of all tensors in the file; `quant` is a key of mixture.QUANTS."""
    mixture = mixture_of(weights, quant)
    return sum(each.rows * row_bytes(mixture.kind(each.name, each.shape), each.columns) for each in weights)


def write(
    path: Path,
    weights: Weights,
    vocabulary: Vocabulary,
    about: About,
    quant: str,
    threads: int,
    progress: Progress,
    importance: Importance | None = None,
) -> None:
    """Write the file.

    Args:
        path: Where to.
        weights: Base and adapter.
        vocabulary: The base's tokenizer.
        about: The other metadata.
        quant: A key of mixture.QUANTS.
        threads: How many threads share the work.
        progress: Called with (done, total), in bytes of the base's weights.
        importance: Weighs the quantization. A tensor that it does not name is quantized without.

    Raises:
        UserError: The disk is full, or a weight is not a number.
    """
    try:
        places = _begin(path, weights, vocabulary, about, quant, importance or {})
        _fill(path, places, threads, progress)
    except OSError as error:
        raise UserError(
            _("{path}: cannot be written ({reason}); name another folder with --output").format(
                path=path, reason=error.strerror
            ),
            FAILED,
        ) from None


def _begin(
    path: Path, weights: Weights, vocabulary: Vocabulary, about: About, quant: str, importance: Importance
) -> list[TensorPlace]:
    """Write the metadata and the table of tensors, and extend the file to its full length with zeros."""
    logging.getLogger("gguf").setLevel(logging.ERROR)
    writer = GGUFWriter(path, "qwen2")
    _describe(writer, weights, about, quant)
    if importance:
        writer.add_string("quantize.imatrix.dataset", "the training's own rows")
        writer.add_uint32("quantize.imatrix.entries_count", len(importance))
    _hyperparameters(writer, weights.config)
    _tokenizer(writer, vocabulary, about)
    mixture = mixture_of(weights, quant)
    kinds = [mixture.kind(source.name, source.shape) for source in weights]
    for source, kind in zip(weights, kinds, strict=True):
        nbytes = source.rows * row_bytes(kind, source.columns)
        writer.add_tensor_info(source.name, source.shape, np.dtype(np.float32), nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    align = writer.data_alignment
    offset = writer.ggml_pad(writer.fout[0].tell(), align)
    places = []
    for source, kind in zip(weights, kinds, strict=True):
        places.append(TensorPlace(source, kind, offset, importance.get(source.name)))
        offset = writer.ggml_pad(offset + source.rows * places[-1].stride, align)
    writer.close()
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, offset)
    return places


def _describe(writer: GGUFWriter, weights: Weights, about: About, quant: str) -> None:
    writer.add_type("model")
    writer.add_name(about.name)
    writer.add_license(about.licence)
    writer.add_size_label(_size_label(weights.parameters))
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_file_type(int(QUANTS[quant][1]))
    for name, value in about.sampling.items():
        {
            "temperature": writer.add_sampling_temp,
            "top_k": lambda value: writer.add_sampling_top_k(int(value)),
            "top_p": writer.add_sampling_top_p,
            "repeat_penalty": writer.add_sampling_penalty_repeat,
        }[name](value)


def _size_label(parameters: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if parameters >= size:
            return f"{parameters / size:.1f}{unit}".replace(".0", "")
    return f"{parameters / 1e3:.0f}K"


def _hyperparameters(writer: GGUFWriter, config: Config) -> None:
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_freq_base(config.rope_theta)
    if config.head_dim * config.num_heads != config.hidden_size:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)


def _tokenizer(writer: GGUFWriter, vocabulary: Vocabulary, about: About) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([TokenType(kind) for kind in vocabulary.kinds])
    writer.add_token_merges(vocabulary.merges)
    writer.add_eos_token_id(vocabulary.eos)
    writer.add_pad_token_id(vocabulary.pad)
    if vocabulary.bos is not None:
        writer.add_bos_token_id(vocabulary.bos)
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template(about.system))


@dataclass(frozen=True)
class _RowRange:
    place: TensorPlace
    start: int
    stop: int


def _pieces(places: list[TensorPlace]) -> Iterator[_RowRange]:
    for place in places:
        step = max(1, PIECE // place.source.columns)
        for start in range(0, place.source.rows, step):
            yield _RowRange(place, start, min(start + step, place.source.rows))


def _fill(path: Path, places: list[TensorPlace], threads: int, progress: Progress) -> None:
    """Write all pieces with `threads` threads. After an error, the other threads stop at their next piece."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the pieces run in parallel already
    total = sum(place.source.entry.nbytes for place in places)
    descriptor = os.open(path, os.O_WRONLY)
    stop = threading.Event()
    done = 0
    open_: set[Future[int]] = set()
    try:
        with ThreadPoolExecutor(threads) as pool:
            try:
                for piece in _pieces(places):
                    open_.add(pool.submit(_work, piece, descriptor, stop))
                    if len(open_) >= 2 * threads:
                        finished, open_ = wait(open_, return_when=FIRST_COMPLETED)
                        done += sum(each.result() for each in finished)
                        progress(done, total)
                for each in open_:
                    done += each.result()
                    progress(done, total)
            except BaseException:
                stop.set()
                raise
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        torch.set_num_threads(before)


def _work(piece: _RowRange, descriptor: int, stop: threading.Event) -> int:
    if stop.is_set():
        return 0
    place, source = piece.place, piece.place.source
    data = packed(source.read(piece.start, piece.stop), place.kind, place.importance).data.cast("B")
    offset, done = place.offset + piece.start * place.stride, 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)
    return (piece.stop - piece.start) * source.entry.nbytes // source.rows


def packed(
    rows: npt.NDArray[np.float32], kind: Kind, importance: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[Any]:
    """Rows in the file's form: float32, float16, or bytes of quantized blocks.

    Args:
        rows: [n, columns], contiguous and finite.
        kind: The type in the file.
        importance: [columns], the weight of an error in each column; None: all weigh the same.
    """
    if kind is Kind.F32:
        return rows
    if kind is Kind.F16:
        with np.errstate(over="ignore"):
            half = rows.astype(np.float16)
        return half
    out = np.empty(len(rows) * row_bytes(kind, rows.shape[1]), np.uint8)
    llamacpp.quantize(int(kind), rows, out, importance)
    return out
