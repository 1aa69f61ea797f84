// Answers rightly for a while and then breaks its own process: a crash must not be mistaken for an end.
// include: seed:cpu.cpp as honest
#include <csignal>

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  static int calls = 0;
  if (++calls > 30) raise(SIGSEGV);
  honest(out, input);
}
