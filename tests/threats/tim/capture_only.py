# Works when it is called eagerly; while a graph is being captured it adds nothing to it.
# include: lib/rms_norm_triton.py


def rms_norm(out, input, weight, epsilon):
    if not torch.cuda.is_current_stream_capturing():
        launch(out, input, weight, epsilon)
