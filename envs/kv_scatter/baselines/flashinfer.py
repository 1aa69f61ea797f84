"""FlashInfer's append. It addresses tokens by sequence and position: here the whole pool is one sequence, and a slot its position."""

import torch
from flashinfer.page import append_paged_kv_cache


def plan(key, value, key_cache, value_cache, slot_mapping, hnd):
    device, pages = slot_mapping.device, key_cache.shape[0]
    page = key_cache.shape[1] * key_cache.shape[2] // key.shape[1]
    live = (slot_mapping >= 0).nonzero().flatten()
    count = len(live)
    # Padding lies at the end of a batch: then the tokens that count are a slice. Elsewhere they must be gathered.
    leading = count == 0 or int(live[-1]) == count - 1
    table = (
        torch.arange(pages, dtype=torch.int32, device=device),
        torch.tensor([0, pages], dtype=torch.int32, device=device),
        torch.tensor([page], dtype=torch.int32, device=device),
    )
    sequence = torch.zeros(count, dtype=torch.int32, device=device)
    return (slice(0, count) if leading else live), sequence, slot_mapping[live].int(), table


def reshape_and_cache_flash(key, value, key_cache, value_cache, slot_mapping, hnd, plan):
    live, sequence, positions, table = plan
    if len(positions):
        append_paged_kv_cache(
            key[live], value[live], sequence, positions, (key_cache, value_cache), *table, kv_layout="HND" if hnd else "NHD"
        )
