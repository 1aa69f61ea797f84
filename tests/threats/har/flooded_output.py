# Prints a hundred megabytes and fills its folder with as much.
import os

# include: baseline:eager.py as honest

for _ in range(100):
    os.write(1, b"x" * (1 << 20))
with open("much", "wb") as file:
    file.truncate(100 << 20)


def rms_norm(out, input, weight, epsilon):
    honest(out, input, weight, epsilon)
