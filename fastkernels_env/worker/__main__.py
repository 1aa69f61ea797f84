"""Entry point of the fork server: ``python -m fastkernels_env.worker CONTROL_FD DEVICE``."""

import os
import sys

from .server import serve

if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
    os._exit(0)  # every worker has ended; unloading torch would keep the judge waiting
