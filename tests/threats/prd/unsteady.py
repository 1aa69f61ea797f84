# Adds noise that changes from call to call, well inside the smoke tolerance.
# include: baseline:eager.py as honest


def silu_and_mul(out, input):
    honest(out, input)
    out.mul_(1 + 2e-5 * torch.randn_like(out))
