"""Entry point of the fork server: ``python -m fastkernels_env.worker CONTROL_FD DEVICE``."""

import sys

from .server import serve

if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
