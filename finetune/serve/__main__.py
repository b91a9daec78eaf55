"""`python -m finetune.serve`: see `cli`."""

import sys

from finetune.errors import run_main
from finetune.serve.cli import main

if __name__ == "__main__":
    sys.exit(run_main(main))
