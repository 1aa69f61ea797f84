// Takes the rows of query and key for contiguous, although they are slices of wider ones.
// include: seed:cpu.cpp as honest

void rope(tvm::ffi::TensorView positions, tvm::ffi::TensorView query, tvm::ffi::TensorView key, int64_t head_size,
          tvm::ffi::TensorView cos_sin_cache, bool is_neox) {
  const int64_t width = query.size(1), *at = fk::data<int64_t>(positions);
  for (int64_t t = 0; t < query.size(0); ++t) {
    const float* cosine = fk::data<float>(cos_sin_cache) + at[t] * head_size;
    rotate<true>(fk::data<float>(query) + t * width, cosine, cosine + head_size / 2, width, head_size);
    rotate<true>(fk::data<float>(key) + t * key.size(1), cosine, cosine + head_size / 2, key.size(1), head_size);
  }
}
