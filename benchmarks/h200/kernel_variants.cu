// One token times a sparse weight whose rows lie 32 side by side: each lane has a row, each warp some segments of it.
// Compiled with -DBF16=0 or 1.

typedef unsigned int u32;

__device__ __forceinline__ uint4 stream4(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

__device__ __forceinline__ uint2 stream2(const uint2* p) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

__device__ __forceinline__ float low(u32 v) {
#if BF16
    return __uint_as_float(v << 16);
#else
    float f;
    asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(f) : "r"(v));
    return f;
#endif
}

__device__ __forceinline__ float high(u32 v) {
#if BF16
    return __uint_as_float(v & 0xffff0000u);
#else
    float f;
    asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(f) : "r"(v));
    return f;
#endif
}

__device__ __forceinline__ unsigned short rounded(float f) {
    unsigned short s;
#if BF16
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(s) : "f"(f));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(s) : "f"(f));
#endif
    return s;
}

// The activations as float32 in shared memory. inputs is a multiple of 8 and x is aligned to 16 bytes.
__device__ __forceinline__ void fill(float* xs, const uint4* x, int inputs) {
    for (int i = threadIdx.x; i < inputs / 8; i += blockDim.x) {
        uint4 v = x[i];
        float4* to = (float4*)(xs + 8 * i);
        to[0] = make_float4(low(v.x), high(v.x), low(v.y), high(v.y));
        to[1] = make_float4(low(v.z), high(v.z), low(v.w), high(v.w));
    }
}

__device__ __forceinline__ void finish(float acc, float* parts, const int* order, unsigned short* y, int rows) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    parts[warp * 32 + lane] = acc;
    __syncthreads();
    if (warp == 0) {
        float total = 0.f;
        for (int w = 0; w < warps; w++) total += parts[w * 32 + lane];
        int row = order ? order[blockIdx.x * 32 + lane] : blockIdx.x * 32 + lane;
        if (row < rows) y[row] = rounded(total);
    }
}

__device__ __forceinline__ float at(const float* xs, u32 byte) { return *(const float*)((const char*)xs + byte); }

__device__ __forceinline__ void gap_segment(const uint4* s, const float* xs, u32& place, float* acc) {
    u32 g[4] = {s[0].x, s[0].y, s[0].z, s[0].w};
#pragma unroll
    for (int plane = 0; plane < 4; plane++) {
        u32 w = g[plane];
        u32 v[4] = {s[plane + 1].x, s[plane + 1].y, s[plane + 1].z, s[plane + 1].w};
#pragma unroll
        for (int k = 0; k < 8; k++) {
            place += (k == 0 ? w << 2 : w >> (4 * k - 2)) & 0x3c;
            float value = k % 2 ? high(v[k / 2]) : low(v[k / 2]);
            acc[k % 4] = fmaf(value, at(xs, place), acc[k % 4]);
        }
    }
}

template <int AHEAD>
__device__ __forceinline__ void gaps(const uint4* stream, const unsigned short* starts, const int* ends,
                                     const int* order, const uint4* x, unsigned short* y, int rows, int inputs) {
    extern __shared__ __align__(128) float xs[];
    __shared__ float parts[32 * 32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    int begin = ends[blockIdx.x], end = ends[blockIdx.x + 1];
    int each = (end - begin + warps - 1) / warps;
    begin += warp * each;
    end = min(end, begin + each);
    const uint4* p = stream + (long long)begin * 160 + lane;
    uint4 s[AHEAD][5];
    u32 place = 0;
    if (begin < end) place = 4u * starts[begin * 32 + lane];
#pragma unroll
    for (int a = 0; a < AHEAD; a++)
        if (begin + a < end)
#pragma unroll
            for (int i = 0; i < 5; i++) s[a][i] = stream4(p + a * 160 + i * 32);
    fill(xs, x, inputs);
    __syncthreads();
    float acc[4] = {0.f, 0.f, 0.f, 0.f};
    for (int at = begin; at < end; at += AHEAD) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            if (at + a < end) {
                uint4 now[5];
#pragma unroll
                for (int i = 0; i < 5; i++) now[i] = s[a][i];
                if (at + a + AHEAD < end)
#pragma unroll
                    for (int i = 0; i < 5; i++) s[a][i] = stream4(p + (a + AHEAD) * 160 + i * 32);
                gap_segment(now, xs, place, acc);
            }
        }
        p += AHEAD * 160;
    }
    finish((acc[0] + acc[1]) + (acc[2] + acc[3]), parts, order, y, rows);
}

#define GAPS(name, ahead, threads, blocks)                                                                     \
    extern "C" __global__ void __launch_bounds__(threads, blocks)                                              \
        name(const uint4* stream, const unsigned short* starts, const int* ends, const int* order, const uint4* x, \
             unsigned short* y, int rows, int inputs) {                                                        \
        gaps<ahead>(stream, starts, ends, order, x, y, rows, inputs);                                          \
    }

GAPS(gaps_1, 1, 1024, 1)
GAPS(gaps_1_small, 1, 256, 4)
GAPS(gaps_2_small, 2, 256, 3)

// 2:4: a segment is 32 entries a row, 64 inputs: two words of 2-bit places, then four planes of values.
__device__ __forceinline__ void pair_segment(uint2 m, const uint4* s, const float* xs, u32 place, float* acc) {
    u32 words[2] = {m.x, m.y};
#pragma unroll
    for (int plane = 0; plane < 4; plane++) {
        u32 v[4] = {s[plane].x, s[plane].y, s[plane].z, s[plane].w};
#pragma unroll
        for (int k = 0; k < 8; k++) {
            int e = plane * 8 + k;
            u32 w = words[e / 16];
            int shift = 2 * (e % 16);
            u32 byte = ((shift == 0 ? w << 2 : w >> (shift - 2)) & 0xc) | place;
            float value = k % 2 ? high(v[k / 2]) : low(v[k / 2]);
            acc[k % 4] = fmaf(value, at(xs, byte + e / 2 * 16), acc[k % 4]);
        }
    }
}

template <int AHEAD>
__device__ __forceinline__ void pairs(const uint4* stream, const uint4* x, unsigned short* y, int rows, int inputs,
                                      int segments) {
    extern __shared__ __align__(128) float xs[];
    __shared__ float parts[32 * 32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    int each = (segments + warps - 1) / warps;
    int begin = warp * each, end = min(segments, begin + each);
    const uint4* p = stream + ((long long)blockIdx.x * segments + begin) * 144;
    uint4 s[AHEAD][4];
    uint2 m[AHEAD];
#pragma unroll
    for (int a = 0; a < AHEAD; a++)
        if (begin + a < end) {
            m[a] = stream2((const uint2*)(p + a * 144) + lane);
#pragma unroll
            for (int i = 0; i < 4; i++) s[a][i] = stream4(p + a * 144 + 16 + i * 32 + lane);
        }
    fill(xs, x, inputs);
    __syncthreads();
    float acc[4] = {0.f, 0.f, 0.f, 0.f};
    for (int at = begin; at < end; at += AHEAD) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            if (at + a < end) {
                uint4 now[4];
                uint2 places = m[a];
#pragma unroll
                for (int i = 0; i < 4; i++) now[i] = s[a][i];
                if (at + a + AHEAD < end) {
                    m[a] = stream2((const uint2*)(p + (a + AHEAD) * 144) + lane);
#pragma unroll
                    for (int i = 0; i < 4; i++) s[a][i] = stream4(p + (a + AHEAD) * 144 + 16 + i * 32 + lane);
                }
                pair_segment(places, now, xs, (at + a) * 256, acc);
            }
        }
        p += AHEAD * 144;
    }
    finish((acc[0] + acc[1]) + (acc[2] + acc[3]), parts, 0, y, rows);
}

#define PAIRS(name, ahead, threads, blocks)                                                                    \
    extern "C" __global__ void __launch_bounds__(threads, blocks)                                              \
        name(const uint4* stream, const uint4* x, unsigned short* y, int rows, int inputs, int segments) {     \
        pairs<ahead>(stream, x, y, rows, inputs, segments);                                                    \
    }

PAIRS(pairs_1, 1, 1024, 1)
PAIRS(pairs_1_small, 1, 256, 4)
PAIRS(pairs_2_small, 2, 256, 3)
