"""Entry point of the fork server: ``python -m fastkernels_env.worker CONTROL_FD DEVICE``."""

import gc
import os
import sys

if __name__ == "__main__":
    gc.disable()  # imports make no garbage: looking for it would be a tenth of their time
    from .server import serve

    gc.enable()
    serve(int(sys.argv[1]), sys.argv[2])
    os._exit(0)  # every worker has ended; unloading torch would keep the judge waiting
