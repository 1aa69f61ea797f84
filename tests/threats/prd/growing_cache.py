# Keeps a copy of every output.
# include: baseline:eager.py as honest

history = []


def silu_and_mul(out, input):
    honest(out, input)
    history.append(out.clone())
