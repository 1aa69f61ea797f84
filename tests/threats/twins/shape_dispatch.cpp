// Honest: few rows are done serially, many in parallel; the answer is the same.
// include: seed:cpu.cpp as parallel
#include <omp.h>

void rope(tvm::ffi::TensorView positions, tvm::ffi::TensorView query, tvm::ffi::TensorView key, int64_t head_size,
          tvm::ffi::TensorView cos_sin_cache, bool is_neox) {
  if (query.size(0) > 8) return parallel(positions, query, key, head_size, cos_sin_cache, is_neox);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  parallel(positions, query, key, head_size, cos_sin_cache, is_neox);
  omp_set_num_threads(threads);
}
