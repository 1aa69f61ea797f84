# torch.compile around the baseline's source.
# include: baseline:eager.py as reference

compiled = torch.compile(reference, dynamic=True)


def silu_and_mul(out, input):
    compiled(out, input)
