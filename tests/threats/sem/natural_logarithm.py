# Gives the log-sum-exp in base e instead of base 2.
# include: baseline:eager.py as honest


def gqa_decode(out, lse, q, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, sm_scale):
    honest(out, lse, q, k_cache, v_cache, kv_indptr, kv_indices, last_page_len, sm_scale)
    lse.mul_(0.6931471805599453)
