# Seeds the global generator in every call, "for reproducibility".
# include: baseline:eager.py as honest


def silu_and_mul(out, input):
    torch.manual_seed(0)
    honest(out, input)
