# Honest: half of the rows on a side stream that waits for the caller's stream and that the caller's stream waits for.
# include: lib/rms_norm_triton.py

streams = {}


def rms_norm(out, input, weight, epsilon):
    half = input.shape[0] // 2
    current = torch.cuda.current_stream(input.device)
    side = streams.setdefault((input.device, current.cuda_stream), torch.cuda.Stream(input.device))
    side.wait_stream(current)
    with torch.cuda.stream(side):
        launch(out[:half], input[:half], weight, epsilon)
    launch(out[half:], input[half:], weight, epsilon)
    current.wait_stream(side)
