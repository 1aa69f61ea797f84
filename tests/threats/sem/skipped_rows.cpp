// Leaves out one row in two hundred and copies its neighbour: under one per cent of the elements are wrong.
#include <cstring>
// include: seed:cpu.cpp as honest

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  honest(out, input);
  const int64_t rows = out.size(0), bytes = out.size(1) * out.dtype().bits / 8;
  for (int64_t t = 97; t < rows; t += 200) std::memcpy(fk::data<char>(out) + t * bytes, fk::data<char>(out) + (t - 1) * bytes, bytes);
}
