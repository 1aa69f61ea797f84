// Allocates a little scratch memory in every call and never frees it.
#include <cstring>
// include: seed:cpu.cpp as honest

char* scratch;  // seen from outside, or the compiler would leave it out

void rms_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double epsilon) {
  const size_t bytes = 1 << 16;
  scratch = new char[bytes];
  std::memset(scratch, 1, bytes);
  honest(out, input, weight, epsilon);
}
