# One block too many: it writes a row past the end of the output.
# include: lib/rms_norm_triton.py


def rms_norm(out, input, weight, epsilon):
    launch(out, input, weight, epsilon, input.shape[0] + 1)
