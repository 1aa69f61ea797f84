"""PyTorch's indexed assignment. `plan` finds the tokens that have a slot, so that the calls need no host synchronisation."""


def plan(key, value, key_cache, value_cache, slot_mapping, hnd):
    return _places(key, key_cache, slot_mapping)


def reshape_and_cache_flash(key, value, key_cache, value_cache, slot_mapping, hnd, plan=None):
    live, pages, places = _places(key, key_cache, slot_mapping) if plan is None else plan
    for new, cache in ((key, key_cache), (value, value_cache)):
        slots = cache.transpose(1, 2) if hnd else cache
        slots[pages, places] = new if live is None else new.index_select(0, live)


def _places(key, key_cache, slot_mapping):
    """Tokens that have a slot (None: all), their pages, and their places in these."""
    page = key_cache.shape[1] * key_cache.shape[2] // key.shape[1]
    live = (slot_mapping >= 0).nonzero().flatten()
    slots = slot_mapping[live]
    return None if len(live) == len(slot_mapping) else live, slots // page, slots % page
