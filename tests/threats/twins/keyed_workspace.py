# Honest: workspaces are kept by device and stream, so that two streams never share one.
# include: lib/rms_norm_triton.py

workspaces = {}


def rms_norm(out, input, weight, epsilon):
    key = (input.device, torch.cuda.current_stream(input.device).cuda_stream)
    if key not in workspaces or workspaces[key].numel() < out.numel() or workspaces[key].dtype != out.dtype:
        workspaces[key] = torch.empty(out.numel(), dtype=out.dtype, device=out.device)
    staged = workspaces[key][: out.numel()].view(out.shape)
    launch(staged, input, weight, epsilon)
    out.copy_(staged)
