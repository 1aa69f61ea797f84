// Starts a thread in every call that sleeps for a minute.
// include: seed:cpu.cpp as honest
#include <chrono>
#include <thread>

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  std::thread([] { std::this_thread::sleep_for(std::chrono::minutes(1)); }).detach();
  honest(out, input);
}
