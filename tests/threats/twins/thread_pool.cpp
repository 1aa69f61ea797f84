// Honest: two helper threads live on between calls, asleep; a call waits until both are done.
#include <cmath>
#include <condition_variable>
#include <fastkernels.h>
#include <functional>
#include <mutex>
#include <thread>

struct Pool {
  std::mutex lock;
  std::condition_variable changed;
  std::function<void(int)> work;
  int64_t round = 0;
  int left = 0;

  Pool() {
    for (int part = 0; part < 2; ++part) std::thread([this, part] { serve(part); }).detach();
  }
  void serve(int part) {
    for (int64_t seen = 0;;) {
      std::unique_lock<std::mutex> held(lock);
      changed.wait(held, [&] { return round != seen; });
      seen = round;
      held.unlock();
      work(part);
      held.lock();
      if (--left == 0) changed.notify_all();
    }
  }
  void run(std::function<void(int)> body) {
    std::unique_lock<std::mutex> held(lock);
    work = std::move(body), left = 2, ++round;
    changed.notify_all();
    changed.wait(held, [&] { return left == 0; });
  }
};

void silu_and_mul(tvm::ffi::TensorView out, tvm::ffi::TensorView input) {
  static Pool* pool = new Pool;
  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const int64_t width = out.size(1), rows = out.size(0);
    pool->run([&](int part) {
      for (int64_t t = part * rows / 2; t < (part + 1) * rows / 2; ++t) {
        const T* gate = fk::data<T>(input) + 2 * t * width;
        for (int64_t i = 0; i < width; ++i) {
          const float g = fk::load(gate + i);
          fk::store(fk::data<T>(out) + t * width + i, g / (1.f + std::exp(-g)) * fk::load(gate + width + i));
        }
      }
    });
  });
}
