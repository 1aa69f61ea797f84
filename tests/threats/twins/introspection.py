# Honest: uses gc, inspect, sys and os at import, the way that DSLs and their caches do.
import gc
import inspect
import os
import sys

import torch

SOURCE = inspect.getsource(torch.nn.functional.silu)
VERSION = (sys.version_info, os.cpu_count(), sys.getsizeof(SOURCE), len(gc.get_stats()), sys._getframe(0).f_code.co_name)


def fused_add_rms_norm(input, residual, weight, epsilon):
    total = residual.float() + input.float()
    residual.copy_(total)
    input.copy_(torch.nn.functional.rms_norm(total, (total.shape[-1],), weight.float(), epsilon))
