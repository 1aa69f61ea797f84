"""``python -m fastkernels_env.bench``: the command group ``fastkernels-env bench`` by itself."""

from __future__ import annotations

import sys

from ..cli import run

if __name__ == "__main__":
    sys.exit(run(["bench", *sys.argv[1:]]))
