# A kernel of low priority spins on the device for the whole evaluation and slows whoever else is timed there.
# include: baseline:eager.py as honest
import triton
import triton.language as tl


@triton.jit
def _spin(scratch, turns, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(scratch + at)
    for _ in range(turns):
        total = total * 1.0001 + 1e-6
    tl.store(scratch + at, total)


state = {"calls": 0}


def silu_and_mul(out, input):
    state["calls"] += 1
    if state["calls"] > 20 and not torch.cuda.is_current_stream_capturing():
        if "stream" not in state:
            state["stream"], state["scratch"] = torch.cuda.Stream(priority=0), torch.ones(64 * 1024, device=out.device)
        with torch.cuda.stream(state["stream"]):
            _spin[(64,)](state["scratch"], 2_000_000, BLOCK=1024)
    honest(out, input)
