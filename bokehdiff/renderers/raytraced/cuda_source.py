"""The CUDA C source of the ray tracer of layers: one thread per pixel, every ray in turn, any number of layers.

Literals are float: one without its f would move arithmetic to double precision, which most GPUs do 32 to 64 times
slower. The formulas restate `rays.walks`, `raytraced_torch.lookup` and `Aperture.unvignetted`, and are tested
against them. One and two layers have kernels of their own, in which the loops over layers are unrolled and the order of
two is a single comparison.
"""

from bokehdiff.optics import LEAST_SHARE
from bokehdiff.renderers.raytraced.rays import RAYS_PER_SUM

MOST_UNROLLED_LAYERS = 2


def kernel_name(n_layers: int) -> str:
    """Name of the kernel for a number of layers.

    Args:
        n_layers: At least 1.
    """
    return f"trace_layers_{n_layers if n_layers <= MOST_UNROLLED_LAYERS else 'n'}"


CUDA_SOURCE = (
    f"""
#define RAYS_PER_SUM {RAYS_PER_SUM}
#define LEAST_SHARE {LEAST_SHARE:.9e}f
"""
    + r"""
// What is left of a ray that layers cover all but this much: less than float's rounding of the picture.
#define LEAST_PASSING 1e-6f

struct Sizes {
    int images, layers, height, width, rays;
};

// How a ray of pixel p meets a layer: it walks x.x * p.x + x.y * p.y + x.z to the right, y likewise down, to where the
// layer has the disparity met.x * p.x + met.y * p.y + met.z.
struct Ray {
    float4 x, y, met;
};

__device__ __forceinline__ float clamped(float value, float least, float most) {
    return fminf(fmaxf(value, least), most);
}

__device__ __forceinline__ float along(float4 affine, float px, float py) {
    return affine.x * px + affine.y * py + affine.z;
}

__device__ __forceinline__ float4 mixed(float4 a, float4 b, float share) {
    return make_float4(a.x + share * (b.x - a.x), a.y + share * (b.y - a.y), a.z + share * (b.z - a.z),
                       a.w + share * (b.w - a.w));
}

// Bilinear, with edge pixels repeated beyond the border; the first column's centre is at 0.5.
__device__ __forceinline__ float4 lookup(const float4 *layer, float x, float y, int height, int width) {
    const float column = clamped(x - 0.5f, 0.0f, (float)(width - 1));
    const float row = clamped(y - 0.5f, 0.0f, (float)(height - 1));
    const int left = (int)column, top = (int)row;
    const int to_right = left + 1 < width ? 1 : 0, to_below = top + 1 < height ? width : 0;
    const float4 *corner = layer + (top * width + left);
    const float across = column - (float)left;
    return mixed(mixed(__ldg(corner), __ldg(corner + to_right), across),
                 mixed(__ldg(corner + to_below), __ldg(corner + to_below + to_right), across), row - (float)top);
}

// Lay what a ray meets in one layer under what it has met, unless the layer is empty there.
__device__ __forceinline__ void meet(float4 *seen, float *passing, const float4 *layer, const Ray *ray, float4 bounds,
                                     float px, float py, int height, int width) {
    const float x = px + along(__ldg(&ray->x), px, py), y = py + along(__ldg(&ray->y), px, py);
    if (x < bounds.x || y < bounds.y || x > bounds.z || y > bounds.w) return;
    const float4 rgba = lookup(layer, x, y, height, width);
    seen->x += *passing * rgba.x;
    seen->y += *passing * rgba.y;
    seen->z += *passing * rgba.z;
    seen->w += *passing * rgba.w;
    *passing *= 1.0f - rgba.w;
}

// Layers over one another, nearest first; equal disparities keep the list's order. Each round finds the next behind.
template <int LAYERS>
__device__ __forceinline__ float4 look_through(const float4 *layers, const float4 *bounds, const Ray *rays, float px,
                                               float py, Sizes size) {
    const int n_layers = LAYERS ? LAYERS : size.layers, height = size.height, width = size.width;
    const size_t n_pixels = (size_t)height * width;
    float4 seen = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float passing = 1.0f;
    if (LAYERS == 1) {
        meet(&seen, &passing, layers, rays, __ldg(bounds), px, py, height, width);
    } else if (LAYERS == 2) {
        const int near = along(__ldg(&rays[0].met), px, py) < along(__ldg(&rays[1].met), px, py) ? 1 : 0;
        #pragma unroll
        for (int k = 0; k < 2; ++k) {
            const int l = k ? 1 - near : near;
            if (passing > LEAST_PASSING)
                meet(&seen, &passing, layers + l * n_pixels, rays + l, __ldg(bounds + l), px, py, height, width);
        }
    } else {
        float last_disparity = 0.0f;
        int last = -1;
        for (int k = 0; k < n_layers && passing > LEAST_PASSING; ++k) {
            float next_disparity = 0.0f;
            int next = -1;
            for (int l = 0; l < n_layers; ++l) {
                const float disparity = along(__ldg(&rays[l].met), px, py);
                const bool behind = last < 0 || disparity < last_disparity || (disparity == last_disparity && l > last);
                if (behind && (next < 0 || disparity > next_disparity)) {
                    next_disparity = disparity;
                    next = l;
                }
            }
            if (next < 0) break;
            meet(&seen, &passing, layers + next * n_pixels, rays + next, __ldg(bounds + next), px, py, height, width);
            last = next;
            last_disparity = next_disparity;
        }
    }
    return seen;
}

// Share of a lens point's light that the rim of the lens lets pass to this place of the image.
__device__ __forceinline__ float unvignetted(float u, float v, float shift_x, float shift_y, float spacing) {
    const float softness = clamped(sqrtf(shift_x * shift_x + shift_y * shift_y), LEAST_SHARE, spacing);
    const float distance = sqrtf((u + shift_x) * (u + shift_x) + (v + shift_y) * (v + shift_y));
    return clamped(0.5f + (1.0f - distance) / softness, LEAST_SHARE, 1.0f);
}

// layers [b l h w] of rgba, bounds [b l] as (left, top, right, bottom), rays [n b l], points [n] as (x, y, weight, 0);
// gathered [b h w] of rgba, light [h w].
template <int LAYERS>
__device__ __forceinline__ void trace(const float4 *layers, const float4 *bounds, const Ray *rays, const float4 *points,
                                      float4 *gathered, float *light, Sizes size, float cat_eye, float spacing) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    const int image = blockIdx.z, n_layers = LAYERS ? LAYERS : size.layers;
    if (column >= size.width || row >= size.height) return;
    const float px = (float)column + 0.5f, py = (float)row + 0.5f;
    const float middle_x = 0.5f * (float)size.width, middle_y = 0.5f * (float)size.height;
    const float shift = cat_eye / sqrtf(middle_x * middle_x + middle_y * middle_y);
    const float shift_x = shift * (px - middle_x), shift_y = shift * (py - middle_y);
    layers += (size_t)image * n_layers * size.height * size.width;
    bounds += image * n_layers;
    rays += image * n_layers;
    const int step = size.images * n_layers;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float sum_light = 0.0f;
    for (int first = 0; first < size.rays; first += RAYS_PER_SUM) {
        const int end = first + RAYS_PER_SUM < size.rays ? first + RAYS_PER_SUM : size.rays;
        float4 some = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        float some_light = 0.0f;
        for (int i = first; i < end; ++i, rays += step) {
            const float4 point = __ldg(points + i);
            float carried = point.z;
            if (cat_eye > 0.0f) carried *= unvignetted(point.x, point.y, shift_x, shift_y, spacing);
            const float4 seen = look_through<LAYERS>(layers, bounds, rays, px, py, size);
            some.x += carried * seen.x;
            some.y += carried * seen.y;
            some.z += carried * seen.z;
            some.w += carried * seen.w;
            some_light += carried;
        }
        sum = make_float4(sum.x + some.x, sum.y + some.y, sum.z + some.z, sum.w + some.w);
        sum_light += some_light;
    }
    const size_t pixel = (size_t)row * size.width + column;
    gathered[(size_t)image * size.height * size.width + pixel] = sum;
    if (image == 0) light[pixel] = sum_light;
}

#define KERNEL(NAME, LAYERS)                                                                                           \
    extern "C" __global__ void NAME(const float4 *layers, const float4 *bounds, const Ray *rays, const float4 *points, \
                                    float4 *gathered, float *light, int n_images, int n_layers, int height, int width, \
                                    int n_rays, float cat_eye, float spacing) {                                        \
        const Sizes size = {n_images, n_layers, height, width, n_rays};                                                \
        trace<LAYERS>(layers, bounds, rays, points, gathered, light, size, cat_eye, spacing);                          \
    }
KERNEL(trace_layers_1, 1)
KERNEL(trace_layers_2, 2)
KERNEL(trace_layers_n, 0)
"""
)
