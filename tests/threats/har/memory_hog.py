# Takes all the memory of the device that it can get.
# include: baseline:eager.py as honest

held = []
try:
    while True:
        held.append(torch.empty(1 << 30, dtype=torch.uint8, device="cuda"))
except torch.OutOfMemoryError:
    pass


def silu_and_mul(out, input):
    honest(out, input)
