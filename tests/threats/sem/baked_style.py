# Keeps the style flag of the first call for good.
# include: baseline:eager.py as honest

first = []


def rope(positions, query, key, head_size, cos_sin_cache, is_neox):
    first.append(is_neox)
    honest(positions, query, key, head_size, cos_sin_cache, first[0])
