"""`python -m finetune.verify`: see `cli`."""

import sys

from finetune.errors import run_main
from finetune.verify.cli import main

if __name__ == "__main__":
    sys.exit(run_main(main))
