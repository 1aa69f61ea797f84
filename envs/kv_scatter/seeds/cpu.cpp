#include <cstring>
#include <fastkernels.h>

// One token's heads: side by side in a page, or a page apart.
static void put(char* cache, const char* row, int64_t slot, int64_t page, int64_t heads, int64_t head_bytes, bool hnd) {
  if (!hnd) {
    std::memcpy(cache + slot * heads * head_bytes, row, heads * head_bytes);
    return;
  }
  const int64_t p = slot / page, o = slot % page;
  for (int64_t h = 0; h < heads; ++h) std::memcpy(cache + ((p * heads + h) * page + o) * head_bytes, row + h * head_bytes, head_bytes);
}

void reshape_and_cache_flash(tvm::ffi::TensorView key, tvm::ffi::TensorView value, tvm::ffi::TensorView key_cache,
                             tvm::ffi::TensorView value_cache, tvm::ffi::TensorView slot_mapping, bool hnd) {
  const int64_t tokens = key.size(0), heads = key.size(1), bytes = key.dtype().bits / 8, head_bytes = key.size(2) * bytes;
  const int64_t page = key_cache.size(hnd ? 2 : 1), key_step = key.stride(0) * bytes, value_step = value.stride(0) * bytes;
  const int64_t* slots = fk::data<int64_t>(slot_mapping);
  const char *keys = fk::data<char>(key), *values = fk::data<char>(value);
  char *to_keys = fk::data<char>(key_cache), *to_values = fk::data<char>(value_cache);
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t slot = slots[t];
    if (slot < 0) continue;
    put(to_keys, keys + t * key_step, slot, page, heads, head_bytes, hnd);
    put(to_values, values + t * value_step, slot, page, heads, head_bytes, hnd);
  }
}
