// sub_pixel.read_heatmap for float32 maps on a CPU: one walk over the memory, and a search only where the best can be.
//
// Supplier masses are m(h) up to a factor per map; neither the dot nor its share of the total depends on the factor.
//
// Blurred mode. Rows of the blurred map are computed one at a time. Blurring row i along x reaches at most
// h_i = min(sum of the row, sum of the taps x its highest mass), so row r of the blurred map is at most
// U_r = sum_i k(r - i) h_i. Rows are taken in the order of falling U until none that is left can beat the best cell found.
//
// Best square. Two rows whose highest masses a and b satisfy 2 (a + b) < best are not looked at.
//
// Maps that are not finite, or empty, or whose masses leave float32 are marked and left to the caller.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <vector>

#define INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__)
#define WITH_AVX2 1
#else
#define WITH_AVX2 0
#endif

#if WITH_AVX2 && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif WITH_AVX2
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace {

#if WITH_AVX2
constexpr int LANES = 8;            // cells at a time, as many as a register holds
#else
constexpr int LANES = 4;
#endif
constexpr int WINDOW = 16;          // cells across the window of the mean shift, at most
constexpr int REACH_IN_BLURS = 6;   // where the Gaussian ends, in standard deviations: 2e-8 of the mass is left out
constexpr float EMPTY = 1e-30f;     // suppliers.EMPTY
constexpr float NEGLIGIBLE = -28;   // exp(-28) of the highest cell's mass is nothing in float32, whole maps of it included
constexpr float LOG_EPSILON = -15.9424f;  // of float32; softplus(x) = exp(x) from here on down (suppliers.Softplus)
constexpr float SLACK = 1e-5f;      // how far rounding may carry a bound, in parts of it

typedef float Cells __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));  // anywhere in memory

#if WITH_AVX2
constexpr Ints LANE = {0, 1, 2, 3, 4, 5, 6, 7};
#else
constexpr Ints LANE = {0, 1, 2, 3};
#endif

constexpr int INTERFACE = 1;  // to be raised, here and in sub_pixel_cpu.py, with every change that the other side must know

enum Rule { RELU, SOFTPLUS, SOFTMAX };
enum Field { DOT_X, DOT_Y, SHARE, PEAK, READ, FIELDS };

struct Task {
    const float *maps;  // (count, height, width)
    float *out;         // (count, FIELDS)
    long count, height, width;
    int threads, rule;
    float sharpness, blur, flat, taper, reach;
    int steps;
};

INLINE Cells load(const float *from) { return *reinterpret_cast<const Loose *>(from); }
INLINE void store(float *to, Cells cells) { *reinterpret_cast<Loose *>(to) = cells; }
INLINE Cells all(float value) { return Cells{} + value; }
INLINE Cells larger(Cells a, Cells b) { return a > b ? a : b; }
INLINE Cells smaller(Cells a, Cells b) { return a < b ? a : b; }

// Lanes 0, 2, .. or 1, 3, .. of a, then of b.
#if defined(__clang__) && WITH_AVX2
INLINE Cells evens(Cells a, Cells b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14); }
INLINE Cells odds(Cells a, Cells b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
#elif defined(__clang__)
INLINE Cells evens(Cells a, Cells b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
INLINE Cells odds(Cells a, Cells b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
#else
INLINE Cells evens(Cells a, Cells b) { return __builtin_shuffle(a, b, 2 * LANE); }
INLINE Cells odds(Cells a, Cells b) { return __builtin_shuffle(a, b, 2 * LANE + 1); }
#endif

struct Sum {
    static inline __attribute__((always_inline)) Cells of(Cells a, Cells b) { return a + b; }
};
struct Highest {
    static inline __attribute__((always_inline)) Cells of(Cells a, Cells b) { return larger(a, b); }
};

// LANES rows of LANES lanes each to one value per row.
template <class Join> INLINE Cells fold_rows(Cells *rows) {
    for (int count = LANES; count > 1; count /= 2)
        for (int i = 0; i < count / 2; i++)
            rows[i] = Join::of(evens(rows[2 * i], rows[2 * i + 1]), odds(rows[2 * i], rows[2 * i + 1]));
    return rows[0];
}

template <class Join> INLINE float fold(Cells lanes) {
    for (int count = LANES; count > 1; count /= 2) lanes = Join::of(evens(lanes, lanes), odds(lanes, lanes));
    return lanes[0];
}

// exp(x) for x <= 0 to three units in the last place; below -87 its value there.
INLINE Cells exp_of_negative(Cells x) {
    const float magic = 12582912;  // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits
    x = larger(x, all(-87));
    Cells shifted = x * 1.44269504f + magic, whole = shifted - magic;
    Cells rest = (x - whole * .693359375f) + whole * 2.12194440e-4f;
    Cells sum = all(1.f / 720);
    sum = sum * rest + 1.f / 120;
    sum = sum * rest + 1.f / 24;
    sum = sum * rest + 1.f / 6;
    sum = sum * rest + .5f;
    sum = sum * rest + 1;
    sum = sum * rest + 1;
    return (Cells)((Bits)sum + ((Bits)shifted << 23));
}

// log(1 + t) for t in [0, 1], small t with all its digits: 2 artanh(t / (2 + t)).
INLINE Cells log_of_one_plus(Cells t) {
    Cells z = t / (2 + t), square = z * z, sum = all(1.f / 15);
    sum = sum * square + 1.f / 13;
    sum = sum * square + 1.f / 11;
    sum = sum * square + 1.f / 9;
    sum = sum * square + 1.f / 7;
    sum = sum * square + 1.f / 5;
    sum = sum * square + 1.f / 3;
    sum = sum * square + 1;
    return 2 * z * sum;
}

template <int rule> INLINE Cells mass_of(Cells x) {
    if (rule == SOFTMAX) return exp_of_negative(x);
    Cells positive = larger(x, Cells{});
    return rule == RELU ? positive : positive + log_of_one_plus(exp_of_negative(x - 2 * positive));
}

struct Scratch {
    const long height, width, stride, padded;  // stride, padded: width and height rounded up to LANES
    const long radius;                         // taps on either side
    std::vector<float> mass;                   // (height, stride); 0 beyond the width
    std::vector<float> row_peak, row_sum, row_max, bound;  // (padded): of raw map, masses, masses, blurred map; 0 beyond the height
    std::vector<float> reached;                // h, radius zeros on either side
    std::vector<float> taps;                   // 2 radius + 1
    std::vector<float> column, across;         // a row blurred along y, radius zeros on either side, and then along x
    std::vector<float> end;                    // a row at the end of a map, with room behind it

    explicit Scratch(const Task &task)
        : height(task.height), width(task.width), stride(up(width)), padded(up(height)), radius(radius_of(task)), mass(height * stride),
          row_peak(padded), row_sum(padded), row_max(padded), bound(padded), reached(padded + 2 * radius), taps(2 * radius + 1),
          column(stride + 2 * radius + 1), across(stride), end(stride) {
        for (long d = -radius; task.blur > 0 && d <= radius; d++) taps[radius + d] = std::exp(-.5 * d * d / (double(task.blur) * task.blur));
    }

    static long up(long size) { return (size + LANES - 1) / LANES * LANES; }

    static long radius_of(const Task &task) {
        const double wanted = std::ceil(REACH_IN_BLURS * double(task.blur)), most = std::fmax(task.height, task.width) - 1;
        return long(std::fmin(wanted, most));
    }
};

// Row y of a map, where whole LANES may be read; what lies beyond the width means nothing.
INLINE const float *row_at(const float *map, long y, Scratch &s) {
    const float *row = map + y * s.width;
    if (y * s.width + s.stride <= s.height * s.width) return row;
    std::memcpy(s.end.data(), row, s.width * sizeof(float));
    return s.end.data();
}

INLINE Cells within(Cells cells, long x, const Scratch &s, float beyond) {
    return x + LANES <= s.width ? cells : LANE < int32_t(s.width - x) ? cells : all(beyond);
}

INLINE float highest_of(const std::vector<float> &values) {
    Cells highest = load(&values[0]);
    for (size_t i = LANES; i < values.size(); i += LANES) highest = larger(highest, load(&values[i]));
    return fold<Highest>(highest);
}

// Highest cell of each row, and of the map; false where a cell is not finite.
INLINE bool find_peaks(const float *map, Scratch &s, float &peak) {
    Cells poison = {};
    for (long first = 0; first < s.padded; first += LANES) {
        Cells rows[LANES];
        for (long i = 0; i < LANES; i++) {
            rows[i] = all(-FLT_MAX);
            if (first + i >= s.height) continue;
            const float *row = row_at(map, first + i, s);
            for (long x = 0; x < s.stride; x += LANES) {
                const Cells cells = within(load(row + x), x, s, -FLT_MAX);
                poison += cells * 0;
                rows[i] = larger(cells, rows[i]);
            }
        }
        store(&s.row_peak[first], fold_rows<Highest>(rows));
    }
    peak = highest_of(s.row_peak);
    return fold<Sum>(poison) == 0;
}

// Masses of all rows, their sums and maxima.
template <int rule> INLINE void weigh_rows(const float *map, Scratch &s, float scale, float shift, float none) {
    for (long first = 0; first < s.padded; first += LANES) {
        Cells sums[LANES] = {}, most[LANES] = {};
        for (long i = 0; i < LANES && first + i < s.height; i++) {
            float *mass = &s.mass[(first + i) * s.stride];
            if (s.row_peak[first + i] <= none) {
                std::memset(mass, 0, s.stride * sizeof(float));
                continue;
            }
            const float *row = row_at(map, first + i, s);
            for (long x = 0; x < s.stride; x += LANES) {
                const Cells cells = within(mass_of<rule>(scale * (load(row + x) - shift)), x, s, 0);
                store(mass + x, cells);
                sums[i] += cells;
                most[i] = larger(most[i], cells);
            }
        }
        store(&s.row_sum[first], fold_rows<Sum>(sums));
        store(&s.row_max[first], fold_rows<Highest>(most));
    }
}

// Masses of a map and their total; false where the map is empty.
INLINE bool weigh(const float *map, const Task &task, Scratch &s, float peak, double &total) {
    const float sharpness = task.sharpness;
    if (task.rule == RELU) {
        if (peak <= EMPTY) return false;
        weigh_rows<RELU>(map, s, 1 / peak, 0, 0);
    } else if (task.rule == SOFTMAX) {
        weigh_rows<SOFTMAX>(map, s, sharpness, peak, peak + NEGLIGIBLE / sharpness);
    } else {
        const float shift = sharpness * peak < LOG_EPSILON ? peak - LOG_EPSILON / sharpness : 0;
        weigh_rows<SOFTPLUS>(map, s, sharpness, shift, -FLT_MAX);
    }
    total = 0;
    for (long y = 0; y < s.height; y++) total += s.row_sum[y];
    return total > 0 && total < FLT_MAX / WINDOW;  // moments in the window stay finite
}

// Highest cell of a row of the blurred map, the first among equals.
INLINE float blur_row(Scratch &s, long row, long &best_x) {
    const long first = row > s.radius ? row - s.radius : 0, end = row + s.radius < s.height ? row + s.radius + 1 : s.height;
    const float *taps = &s.taps[s.radius];
    for (long x = 0; x < s.stride; x += LANES) {
        Cells sum = {};
        for (long i = first; i < end; i++) sum += taps[i - row] * load(&s.mass[i * s.stride + x]);
        store(&s.column[s.radius + x], sum);
    }
    Cells highest = all(-1);
    for (long x = 0; x < s.stride; x += LANES) {
        Cells sum = {};
        for (long d = 0; d <= 2 * s.radius; d++) sum += s.taps[d] * load(&s.column[x + d]);
        sum = within(sum, x, s, -1);
        store(&s.across[x], sum);
        highest = larger(highest, sum);
    }
    const float value = fold<Highest>(highest);
    for (best_x = 0; s.across[best_x] != value;) best_x++;
    return value;
}

// Highest cell of the blurred map, the first in reading order among equals.
INLINE float blurred_mode(Scratch &s, long &best_x, long &best_y) {
    const float taps = [&] { float sum = 0; for (float tap : s.taps) sum += tap; return sum; }();
    for (long y = 0; y < s.padded; y += LANES)
        store(&s.reached[s.radius + y], smaller(taps * load(&s.row_max[y]), load(&s.row_sum[y])));
    for (long y = 0; y < s.padded; y += LANES) {
        Cells sum = {};
        for (long d = 0; d <= 2 * s.radius; d++) sum += s.taps[d] * load(&s.reached[y + d]);
        store(&s.bound[y], y + LANES <= s.height ? sum : LANE < int32_t(s.height - y) ? sum : all(-1));
    }
    float best = -1;
    for (;;) {
        const float bound = highest_of(s.bound);
        if (bound < 0 || bound * (1 + SLACK) < best) return best;
        long row = 0, x;
        while (s.bound[row] != bound) row++;
        s.bound[row] = -1;
        const float value = blur_row(s, row, x);
        if (value > best || (value == best && row < best_y)) {
            best = value;
            best_x = x;
            best_y = row;
        }
    }
}

// Weight of cells at an offset from the dot along one axis (blurred_mode._window).
INLINE Cells window(Cells offset, const Task &task) {
    const Cells size = larger(offset, -offset), weight = (task.flat + task.taper - size) / task.taper;
    return larger(smaller(weight, all(1)), Cells{});
}

// blurred_mode.settle: the mean shift from the best cell, to which dot_x and dot_y are relative.
INLINE void settle(const Task &task, const Scratch &s, long best_x, long best_y, float &dot_x, float &dot_y) {
    constexpr int PARTS = WINDOW / LANES;
    const int radius = int(task.reach + task.flat + task.taper), across = 2 * radius + 1;
    float masses[WINDOW][WINDOW] = {}, offsets[WINDOW], weights[WINDOW];
    for (int i = 0; i < WINDOW; i++) offsets[i] = float(i - radius);
    for (int j = 0; j < across; j++)
        for (int i = 0; i < across; i++) {
            const long x = best_x + i - radius, y = best_y + j - radius;
            if (x >= 0 && x < s.width && y >= 0 && y < s.height) masses[j][i] = s.mass[y * s.stride + x];
        }
    dot_x = dot_y = 0;
    for (int step = 0; step < task.steps; step++) {
        for (int i = 0; i < WINDOW; i += LANES) store(weights + i, window(load(offsets + i) - dot_y, task));
        Cells sums[PARTS] = {}, moments[PARTS] = {}, sum = {}, moment_x = {}, moment_y = {};
        for (int j = 0; j < across; j++)
            for (int part = 0; part < PARTS; part++) {
                const Cells cells = weights[j] * load(masses[j] + part * LANES);
                sums[part] += cells;
                moments[part] += offsets[j] * cells;
            }
        for (int part = 0; part < PARTS; part++) {
            const Cells offset = load(offsets + part * LANES), weight = window(offset - dot_x, task);
            sum += weight * sums[part];
            moment_x += weight * offset * sums[part];
            moment_y += weight * moments[part];
        }
        const float mass = fold<Sum>(sum);
        if (!(mass > 0)) return;
        dot_x = std::fmin(std::fmax(fold<Sum>(moment_x) / mass, -task.reach), task.reach);
        dot_y = std::fmin(std::fmax(fold<Sum>(moment_y) / mass, -task.reach), task.reach);
    }
}

// sub_pixel.decode_square: centroid and mass of the 2 x 2 cells that hold the most, the first among equals.
INLINE float best_square(Scratch &s, float &dot_x, float &dot_y) {
    float best = -1;
    long best_x = 0, best_y = 0;
    for (long y = 0; y + 1 < s.height; y++) {
        if (2 * (s.row_max[y] + s.row_max[y + 1]) * (1 + SLACK) < best) continue;
        const float *upper = &s.mass[y * s.stride], *lower = upper + s.stride;
        for (long x = 0; x < s.stride; x += LANES) store(&s.column[x], load(upper + x) + load(lower + x));
        Cells highest = all(-1);
        for (long x = 0; x < s.stride; x += LANES) {
            const Cells squares = within(load(&s.column[x]) + load(&s.column[x + 1]), x + 1, s, -1);
            store(&s.across[x], squares);
            highest = larger(highest, squares);
        }
        const float value = fold<Highest>(highest);
        if (value <= best) continue;
        best = value;
        best_y = y;
        for (best_x = 0; s.across[best_x] != value;) best_x++;
    }
    const float *cells = &s.mass[best_y * s.stride + best_x];
    const float right = cells[1] + cells[s.stride + 1], below = cells[s.stride] + cells[s.stride + 1];
    best = cells[0] + cells[1] + cells[s.stride] + cells[s.stride + 1];
    dot_x = best_x + right / best;
    dot_y = best_y + below / best;
    return best;
}

void read_map(const Task &task, Scratch &s, const float *map, float *out) {
    float peak, share, dot_x, dot_y;
    double total;
    out[READ] = 0;
    if (!find_peaks(map, s, peak) || !weigh(map, task, s, peak, total)) return;
    if (task.blur > 0) {
        long x = 0, y = 0;
        share = blurred_mode(s, x, y);
        settle(task, s, x, y, dot_x, dot_y);
        dot_x += x;
        dot_y += y;
    } else {
        share = best_square(s, dot_x, dot_y);
    }
    out[DOT_X] = dot_x;
    out[DOT_Y] = dot_y;
    out[SHARE] = share < total ? float(share / total) : 1;
    out[PEAK] = peak;
    out[READ] = share > 0 && std::isfinite(dot_x) && std::isfinite(dot_y);
}

// The threads are OpenMP's, which torch has and keeps awake: starting others would take as long as half the work.
void read_maps(const Task &task, std::vector<Scratch> &scratches) {
#pragma omp parallel for num_threads(task.threads) if (task.threads > 1)
    for (int thread = 0; thread < task.threads; thread++)
        for (long j = task.count * thread / task.threads; j < task.count * (thread + 1) / task.threads; j++)
            read_map(task, scratches[thread], task.maps + j * task.height * task.width, task.out + j * FIELDS);
}

PyObject *read_heatmaps(PyObject *, PyObject *args) {
    Task task;
    unsigned long long maps, out;
    if (!PyArg_ParseTuple(args, "KKllliifffffi", &maps, &out, &task.count, &task.height, &task.width, &task.threads, &task.rule,
                          &task.sharpness, &task.blur, &task.flat, &task.taper, &task.reach, &task.steps))
        return nullptr;
    if (task.count < 0 || task.threads < 1 || !(task.blur >= 0) || task.height < 2 || task.width < 2 || task.rule < RELU || task.rule > SOFTMAX ||
        2 * int(task.reach + task.flat + task.taper) + 1 > WINDOW) {
        PyErr_SetString(PyExc_ValueError, "maps must be at least 2 x 2, threads at least 1, blur at least 0, rule one of the three, the window at most 16 cells wide");
        return nullptr;
    }
    task.maps = reinterpret_cast<const float *>(uintptr_t(maps));
    task.out = reinterpret_cast<float *>(uintptr_t(out));
    try {
        std::vector<Scratch> scratches(task.threads, Scratch(task));
        Py_BEGIN_ALLOW_THREADS
        read_maps(task, scratches);
        Py_END_ALLOW_THREADS
    } catch (const std::exception &) {  // nothing is thrown where the GIL is released
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"read_heatmaps", read_heatmaps, METH_VARARGS,
     "read_heatmaps(maps, out, count, height, width, threads, rule, sharpness, blur, flat, taper, reach, steps): addresses of\n"
     "contiguous float32 maps (count, height, width) and of the results (count, 5): x, y, share, peak, and 1 where the map was read."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_sub_pixel_cpu", nullptr, 0, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

#if WITH_AVX2 && defined(__clang__)
#pragma clang attribute pop
#elif WITH_AVX2
#pragma GCC pop_options
#endif

PyMODINIT_FUNC PyInit__sub_pixel_cpu() {
#if WITH_AVX2
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        PyErr_SetString(PyExc_ImportError, "this processor has no AVX2");
        return nullptr;
    }
#endif
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0) Py_CLEAR(module);
    return module;
}
