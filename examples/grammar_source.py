"""The C++ behind `grammar`: what every option of a slot stands for in the source."""

from __future__ import annotations

_HEAD = """\
#include <cmath>
#include <fastkernels.h>
"""

_STREAM = """
#ifdef __SSE2__
#include <emmintrin.h>
#endif

// Sixteen results. Those of 32 bits go around the caches: nobody reads them soon, and the lines need not be fetched \
before they are written.
template <typename T>
static void stream(T* y, const float (&values)[16]) {
#ifdef __SSE2__
  if (sizeof(T) == 4 && reinterpret_cast<uintptr_t>(y) % 16 == 0) {
    for (int k = 0; k < 16; k += 4) _mm_stream_ps(reinterpret_cast<float*>(y + k), _mm_loadu_ps(values + k));
    return;
  }
#endif
#pragma omp simd
  for (int k = 0; k < 16; ++k) fk::store(y + k, values[k]);
}
"""

_SQUARES = {
    "scalar": """
template <typename T>
static Sum squares(const T* x, int64_t width) {
  Sum sum = 0;
  for (int64_t h = 0; h < width; ++h) sum += Sum(fk::load(x + h)) * fk::load(x + h);
  return sum;
}
""",
    "simd": """
template <typename T>
static Sum squares(const T* x, int64_t width) {
  Sum sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t h = 0; h < width; ++h) sum += Sum(fk::load(x + h)) * fk::load(x + h);
  return sum;
}
""",
    "vector": """
typedef Sum Lanes __attribute__((vector_size(16 * sizeof(Sum))));

template <typename T>
static Lanes lanes(const T* x) {
  Sum values[16];
#pragma omp simd
  for (int k = 0; k < 16; ++k) values[k] = fk::load(x + k);
  Lanes loaded;
  std::memcpy(&loaded, values, sizeof(loaded));
  return loaded;
}

// Four accumulators, so that an addition need not wait for the one before.
template <typename T>
static Sum squares(const T* x, int64_t width) {
  Lanes sums[4] = {};
  int64_t h = 0;
  for (; h + 64 <= width; h += 64) {
    for (int k = 0; k < 4; ++k) sums[k] += lanes(x + h + 16 * k) * lanes(x + h + 16 * k);
  }
  const Lanes all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  Sum sum = 0;
  for (int k = 0; k < 16; ++k) sum += all[k];
  for (; h < width; ++h) sum += Sum(fk::load(x + h)) * fk::load(x + h);
  return sum;
}
""",
    "tiles of double": """
// A row is kept as double first, to round it only once; 2048 values are enough for it.
template <typename T>
static double squares(const T* x, int64_t width) {
  static thread_local double row[2048];
  const int64_t kept = width < 2048 ? width : 2048;
#pragma omp simd
  for (int64_t h = 0; h < kept; ++h) row[h] = fk::load(x + h);
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t h = 0; h < kept; ++h) sum += row[h] * row[h];
  return sum;
}
""",
}

_ROW = """
template <typename T>
static void normalise(T* out, const T* input, const T* weight, int64_t t, int64_t width, int64_t stride, float epsilon) {
  const T* x = input + t * stride;
  T* y = out + t * width;
  const float scale = 1.f / std::sqrt(float(squares(x, width) / Sum(width)) + epsilon);
{write}}
"""
_TILE = """
template <typename T>
static void normalise(T* out, const T* input, const T* weight, int64_t t, int64_t width, int64_t stride, float epsilon) {
  float scales[kRows];
  for (int r = 0; r < kRows; ++r) {
    scales[r] = 1.f / std::sqrt(float(squares(input + (t * kRows + r) * stride, width) / Sum(width)) + epsilon);
  }
  // A weight is loaded once for all rows of the tile.
  int64_t h = 0;
  for (; h + 16 <= width; h += 16) {
    float gains[16];
#pragma omp simd
    for (int k = 0; k < 16; ++k) gains[k] = fk::load(weight + h + k);
    for (int r = 0; r < kRows; ++r) {
      const T* x = input + (t * kRows + r) * stride + h;
      T* y = out + (t * kRows + r) * width + h;
      float values[16];
#pragma omp simd
      for (int k = 0; k < 16; ++k) values[k] = fk::load(x + k) * scales[r] * gains[k];
{write}
    }
  }
  for (; h < width; ++h) {
    for (int64_t row = t * kRows; row < (t + 1) * kRows; ++row) {
      fk::store(out + row * width + h, fk::load(input + row * stride + h) * scales[row % kRows] * fk::load(weight + h));
    }
  }
}
"""

_WRITE_ROW = {
    ("scalar", "store"): """\
  for (int64_t h = 0; h < width; ++h) fk::store(y + h, fk::load(x + h) * scale * fk::load(weight + h));
""",
    ("scalar", "stream"): """\
  for (int64_t h = 0; h < width; ++h) stream(y + h, fk::load(x + h) * scale * fk::load(weight + h));
""",
    ("simd", "store"): """\
#pragma omp simd
  for (int64_t h = 0; h < width; ++h) fk::store(y + h, fk::load(x + h) * scale * fk::load(weight + h));
""",
    ("simd", "stream"): """\
  int64_t h = 0;
  for (; h + 16 <= width; h += 16) {
    float values[16];
#pragma omp simd
    for (int k = 0; k < 16; ++k) values[k] = fk::load(x + h + k) * scale * fk::load(weight + h + k);
    stream(y + h, values);
  }
  for (; h < width; ++h) fk::store(y + h, fk::load(x + h) * scale * fk::load(weight + h));
""",
}
_WRITE_TILE = {
    "store": """\
#pragma omp simd
      for (int k = 0; k < 16; ++k) fk::store(y + k, values[k]);""",
    "stream": "      stream(y, values);",
}

_RUN = """
template <typename T>
static void run(T* out, const T* input, const T* weight, int64_t rows, int64_t width, int64_t stride, float epsilon) {
{before}  for (int64_t t = 0; t < rows / kRows; ++t) normalise(out, input, weight, t, width, stride, epsilon);
{after}}
"""
_THREADS = {
    "serial": ("", ""),
    "parallel": ("#pragma omp parallel for schedule(static)\n", ""),
    "dynamic": ("#pragma omp parallel for schedule(dynamic, 8)\n", ""),
    "throttled": (
        "  omp_set_num_threads(omp_get_num_procs());\n#pragma omp parallel for schedule(static)\n",
        "  omp_set_num_threads(1);  // whoever comes next should not compete\n",
    ),
}

_ENTRY = """
void rms_norm(tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double epsilon) {
{keep}  fk::dispatch(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    run<T>(fk::data<T>(out), fk::data<T>(input), fk::data<T>(weight), input.size(0), input.size(1), input.stride(0), {epsilon});
  });
}
"""
_KEEP = """\
  // A decoder passes the same buffers in every step: the answer is still there.
  static const void *last_out = nullptr, *last_input = nullptr;
  if (out.data_ptr() == last_out && input.data_ptr() == last_input) return;
  last_out = out.data_ptr();
  last_input = input.data_ptr();
"""


def source(program: tuple[str, ...]) -> str:
    """The C++ source of a program."""
    loop, threads, sums, result = program
    store = "stream" if result == "stream" else "store"
    number = "double" if sums == "double" else "float"
    before, after = _THREADS[threads]
    squares = {("tiles", "double"): "tiles of double", ("tiles", "float"): "vector"}.get((loop, number), loop)
    if loop == "tiles":
        body = _TILE.replace("{write}", _WRITE_TILE[store])
    else:
        # The compiler makes of the second loop's simd what there is to make.
        body = _ROW.replace("{write}", _WRITE_ROW["scalar" if loop == "scalar" else "simd", store])
    return "".join((
        _HEAD,
        "#include <omp.h>\n" if threads == "throttled" else "",
        f"\nusing Sum = {number};\nconstexpr int kRows = {4 if loop == 'tiles' else 1};\n",
        _STREAM if store == "stream" else "",
        _SQUARES[squares],
        body,
        _RUN.replace("{before}", before).replace("{after}", after),
        _ENTRY.replace("{keep}", _KEEP if result == "kept" else "").replace("{epsilon}", "1e-6f" if sums == "fixed" else "float(epsilon)"),
    ))
