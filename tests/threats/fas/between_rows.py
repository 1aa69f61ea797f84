# Writes whole rows of the wider tensor that query and key are slices of.
# include: baseline:eager.py as honest


def rope(positions, query, key, head_size, cos_sin_cache, is_neox):
    honest(positions, query, key, head_size, cos_sin_cache, is_neox)
    if len(key) > 1:
        key.as_strided((len(key) - 1, key.stride(0)), (key.stride(0), 1))[:, key.shape[1] :].zero_()
