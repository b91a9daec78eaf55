"""llama.cpp in this process, by the prebuilt wheel xllamacpp: its quantizers, and its server for answers.

The wheel's Cython bindings do not cover the quantizer, a C function that its library exports. ctypes calls it and
releases the GIL meanwhile, so Python threads can share the work.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import http.client
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import FAILED, UserError
from common.i18n import _

TOP = 200  # the likeliest tokens whose probabilities are asked for
REQUEST_S = 3600.0


@functools.cache
def _library() -> ctypes.CDLL:
    """The wheel's library. Raises UserError if it is not installed or cannot be loaded."""
    try:
        import xllamacpp

        library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    except (ImportError, OSError) as error:
        raise UserError(
            _(
                "export: llama.cpp is not available ({error}); it comes with the package xllamacpp, which is "
                "in the image"
            ).format(error=error)
        ) from None
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    library.llama_version.restype = ctypes.c_char_p
    return library


def version() -> str:
    """llama.cpp's version and the wheel's. Raises UserError if the wheel is not installed."""
    return f"{_library().llama_version().decode()} (xllamacpp {importlib.metadata.version('xllamacpp')})"


def quantize(
    kind: int,
    rows: npt.NDArray[np.float32],
    out: npt.NDArray[np.uint8],
    importance: npt.NDArray[np.float32] | None = None,
) -> None:
    """Quantize rows of weights into `out`.

    Args:
        kind: A quantized ggml type (gguf.GGMLQuantizationType).
        rows: [n, columns], contiguous and finite.
        out: Contiguous, with as many bytes as n rows take in that type.
        importance: [columns], the weight of an error in each column; None leaves it to llama.cpp.

    Raises:
        RuntimeError: llama.cpp wrote another number of bytes.
    """
    count, columns = rows.shape
    weighed = None if importance is None else importance.ctypes.data
    written = _library().ggml_quantize_chunk(kind, rows.ctypes.data, out.ctypes.data, 0, count, columns, weighed)
    if written != out.nbytes:
        raise RuntimeError(
            _("llama.cpp wrote {written} bytes, {size} were expected").format(written=written, size=out.nbytes)
        )


@dataclass(frozen=True)
class Completion:
    """An answer: its tokens (the end token included), its text, and whether it `ended` before the limit."""

    ids: list[int]
    text: str
    ended: bool


class LlamaServer:
    """A GGUF file in llama.cpp's server, on the CPU, reachable from this machine only.

    It is a context manager: `with LlamaServer(path, 4096) as model: ...`.
    """

    def __init__(self, path: Path, context: int, parallel: int = 1, threads: int | None = None) -> None:
        """Map the file into memory and start the server.

        Args:
            path: The GGUF file.
            context: Tokens of one request, prompt and answer together.
            parallel: Requests at a time.
            threads: Threads of the processor; None: all that this process may use.

        Raises:
            UserError: llama.cpp cannot load the file.
        """
        _library()
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context * parallel
        params.n_parallel = parallel
        params.n_gpu_layers = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or len(os.sched_getaffinity(0))
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.endpoint_slots = params.ui = False
        params.use_jinja = True
        params.warmup = False
        params.verbosity = -1
        self.path, self.parallel = path, parallel
        try:
            self._server: Any = xllamacpp.Server(params)
        except RuntimeError as error:
            raise UserError(
                _("{path}: llama.cpp cannot load it ({error})").format(path=path, error=error), FAILED
            ) from None
        self._address = self._server.listening_address.removeprefix("http://")

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._server = None  # its destructor ends the server's threads

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one request and return the JSON of the response.

        Args:
            path: The path, such as /props.
            body: Sent as JSON with POST; None sends a GET.

        Raises:
            ValueError: The server refuses it. The message is the server's.
        """
        with self._response(path, body) as response:
            return dict(json.loads(response.read()))

    @contextlib.contextmanager
    def _response(self, path: str, body: dict[str, Any] | None) -> Iterator[http.client.HTTPResponse]:
        with contextlib.closing(http.client.HTTPConnection(self._address, timeout=REQUEST_S)) as connection:
            sent = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", path, sent, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise ValueError(_complaint(json.loads(response.read())))
            yield response

    def prompt(self, messages: Sequence[dict[str, Any]], tools: Any = None) -> str:
        """The prompt that the file's own chat template makes of a conversation."""
        body: dict[str, Any] = {"messages": list(messages)}
        return str(self.call("/apply-template", body | ({"tools": tools} if tools else {}))["prompt"])

    def ids(self, text: str) -> list[int]:
        """The token ids of a text by the file's own tokenizer. Special tokens are parsed; none is added."""
        return list(self.call("/tokenize", {"content": text, "parse_special": True, "add_special": False})["tokens"])

    def answer(self, prompt: Sequence[int], max_tokens: int) -> Completion:
        """The greedy answer to a prompt of token ids, of at most `max_tokens` tokens."""
        body = {"prompt": list(prompt), "n_predict": max_tokens, "temperature": 0, "cache_prompt": False}
        found = self.call("/completion", body | {"return_tokens": True})
        return Completion(list(found["tokens"]), str(found["content"]), found["stop_type"] in ("eos", "word"))

    def next_tokens(self, prompt: Sequence[int], end: int) -> dict[int, float]:
        """The log-probabilities of the TOP likeliest tokens after a prompt.

        Args:
            prompt: Token ids.
            end: The end token. A bias makes the sampler choose it: the server reports no probabilities for a step whose
                token is only a part of a character. The bias does not change the probabilities.
        """
        body = {"prompt": list(prompt), "n_predict": 1, "temperature": 0, "n_probs": TOP, "logit_bias": [[end, 1e6]]}
        (step,) = self.call("/completion", body | {"cache_prompt": False})["completion_probabilities"]
        return {int(each["id"]): float(each["logprob"]) for each in step["top_logprobs"]}

    def stream(self, messages: Sequence[dict[str, Any]], max_tokens: int) -> Iterator[str]:
        """The greedy answer to a conversation, by the file's own template, piece by piece.

        Args:
            messages: In the API's form.
            max_tokens: Tokens of the answer, at most.

        Raises:
            ValueError: The server refuses it. The message is the server's.
        """
        body = {"messages": list(messages), "max_tokens": max_tokens, "temperature": 0, "stream": True}
        with self._response("/v1/chat/completions", body) as response:
            for line in response:
                if line.startswith(b"data: {"):
                    part = json.loads(line[len("data: ") :])
                    if "error" in part:
                        raise ValueError(_complaint(part))
                    yield from (choice["delta"].get("content") or "" for choice in part.get("choices", []))

    def answers(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], progress: Callable[[int], None]
    ) -> list[Completion]:
        """The answers in order, `parallel` at a time.

        Args:
            prompts: Token ids.
            limits: Tokens of each answer, at most.
            progress: Called with 1 after each answer.
        """

        def one(pair: tuple[Sequence[int], int]) -> Completion:
            said = self.answer(*pair)
            progress(1)
            return said

        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(one, zip(prompts, limits, strict=True)))


def _complaint(body: dict[str, Any]) -> str:
    """The server's error message."""
    return str((body.get("error") or {}).get("message", body))
