"""ms-swift plugin: code in a model's folder is not run; the swift launcher adds it to every command.

ms-swift 4.6 passes `trust_remote_code=True` for most models, including Qwen2.5, although transformers has its code.
MIRROR_TRUST_REMOTE_CODE=1 keeps that, for a model from someone you trust. Like vram_ceiling it does not import
`finetune`.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from swift.model import model_meta
from swift.model.register import ModelLoader
from swift.utils import get_logger
from transformers import AutoConfig


class OwnCodeOnly:
    """AutoConfig when ms-swift first reads a model: one that needs its own code ends in one line and exit code 2."""

    @staticmethod
    def from_pretrained(model_dir: str, trust_remote_code: bool = True, **options: Any) -> Any:
        try:
            return AutoConfig.from_pretrained(model_dir, trust_remote_code=False, **options)
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            print(
                f"error: {model_dir} brings Python code of its own, which is not run here; set "
                "MIRROR_TRUST_REMOTE_CODE=1 if you trust whoever made it",
                file=sys.stderr,
                flush=True,
            )
            raise SystemExit(2) from None


def _says_nothing_of_it(record: logging.LogRecord) -> bool:
    """Drop ms-swift's warning that the model's code will be run: it is no longer true."""
    return "trust_remote_code=True" not in record.getMessage()


if os.environ.get("MIRROR_TRUST_REMOTE_CODE", "") != "1":
    ModelLoader.default_trust_remote_code = False
    model_meta.AutoConfig = OwnCodeOnly
    get_logger().addFilter(_says_nothing_of_it)
