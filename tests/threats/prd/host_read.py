# Reads a value of the input on the host in every call.
# include: lib/rms_norm_triton.py


def rms_norm(out, input, weight, epsilon):
    launch(out, input, weight, epsilon + 0.0 * float(weight[0]))
