"""What every process that measures an architecture has loaded before it starts."""

import gc

import transformers.integrations.moe
import transformers.modeling_utils
import transformers.models.auto.modeling_auto  # noqa: F401

from .. import cli  # noqa: F401  # what the command's own process runs, which a new process imports again
from . import worker  # noqa: F401

gc.collect()
gc.freeze()  # shared by all processes that are forked off, and not looked through again by each of them
