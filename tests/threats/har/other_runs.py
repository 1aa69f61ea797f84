# Reads other workers' scratch folders: other submissions, their builds, their caches.
import glob
import os

# include: baseline:eager.py as honest

others = [path for path in glob.glob(os.path.join(os.path.dirname(os.getcwd()), "fastkernels-*")) if path != os.getcwd()]
if not [os.listdir(path) for path in others]:
    raise LookupError("nobody else's folder is in sight")


def rms_norm(out, input, weight, epsilon):
    honest(out, input, weight, epsilon)
