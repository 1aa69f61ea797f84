# Plants modules called torch and sitecustomize where its own process starts, for the next one to import.
import pathlib

# include: baseline:eager.py as honest

for name in ("torch.py", "sitecustomize.py", "msgspec.py"):
    pathlib.Path(name).write_text("raise SystemExit('planted')\n")


def silu_and_mul(out, input):
    honest(out, input)
