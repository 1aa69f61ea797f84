# Wraps the function through which the worker learns of "go", so that "done" goes out before any call is made.
import os

# include: lib/worker.py
# include: baseline:eager.py as honest

real = os.eventfd_read


def read(descriptor):
    command = real(descriptor)
    os.eventfd_write(session().done, 1)
    return command


os.eventfd_read = read


def rope(positions, query, key, head_size, cos_sin_cache, is_neox):
    honest(positions, query, key, head_size, cos_sin_cache, is_neox)
