"""The CUDA C source of the ray tracer of layers: one thread per pixel, every ray in turn, any number of layers.

Literals are float: one without its f would move arithmetic to double precision, which most GPUs do 32 to 64 times
slower. The formulas restate `rays.walks`, `raytraced_torch.lookup` and `Aperture.unvignetted`, and are tested
against them.
"""

from bokehdiff.optics import LEAST_SHARE
from bokehdiff.renderers.rays import RAYS_PER_SUM

KERNEL_NAME = "trace_layers"

CUDA_SOURCE = (
    f"""
#define RAYS_PER_SUM {RAYS_PER_SUM}
#define LEAST_SHARE {LEAST_SHARE:.9e}f
"""
    + r"""
struct Hit {
    float x, y, disparity;
};

__device__ __forceinline__ float clamped(float value, float least, float most) {
    return fminf(fmaxf(value, least), most);
}

// Where the ray of pixel p meets a layer: an affine walk from p, and the disparity of the layer there.
__device__ __forceinline__ Hit meet(const float *walk, const float *plane, float px, float py) {
    Hit hit;
    hit.x = px + (walk[0] * px + walk[1] * py + walk[2]);
    hit.y = py + (walk[3] * px + walk[4] * py + walk[5]);
    hit.disparity = plane[0] + plane[1] * hit.x + plane[2] * hit.y;
    return hit;
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
    const int right = left + 1 < width ? left + 1 : left;
    const float4 *above = layer + (size_t)top * width;
    const float4 *below = top + 1 < height ? above + width : above;
    const float across = column - (float)left;
    return mixed(mixed(__ldg(above + left), __ldg(above + right), across),
                 mixed(__ldg(below + left), __ldg(below + right), across), row - (float)top);
}

// Layers over one another, nearest first; equal disparities keep the list's order. Each round finds the next behind.
__device__ __forceinline__ float4 look_through(const float4 *layers, const float *planes, const float *walks, float px,
                                               float py, int n_layers, int height, int width) {
    float4 seen = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float passing = 1.0f, last_disparity = 0.0f;
    int last = -1;
    for (int k = 0; k < n_layers && passing != 0.0f; ++k) {
        Hit next = {0.0f, 0.0f, 0.0f};
        int next_layer = -1;
        for (int l = 0; l < n_layers; ++l) {
            const Hit hit = meet(walks + 6 * l, planes + 3 * l, px, py);
            const bool behind = last < 0 || hit.disparity < last_disparity
                                || (hit.disparity == last_disparity && l > last);
            if (behind && (next_layer < 0 || hit.disparity > next.disparity)) {
                next = hit;
                next_layer = l;
            }
        }
        if (next_layer < 0) break;
        const float4 rgba = lookup(layers + (size_t)next_layer * height * width, next.x, next.y, height, width);
        seen.x += passing * rgba.x;
        seen.y += passing * rgba.y;
        seen.z += passing * rgba.z;
        seen.w += passing * rgba.w;
        passing *= 1.0f - rgba.w;
        last = next_layer;
        last_disparity = next.disparity;
    }
    return seen;
}

// Share of a lens point's light that the rim of the lens lets pass to this place of the image.
__device__ __forceinline__ float unvignetted(float u, float v, float shift_x, float shift_y, float spacing) {
    const float softness = clamped(sqrtf(shift_x * shift_x + shift_y * shift_y), LEAST_SHARE, spacing);
    const float distance = sqrtf((u + shift_x) * (u + shift_x) + (v + shift_y) * (v + shift_y));
    return clamped(0.5f + (1.0f - distance) / softness, LEAST_SHARE, 1.0f);
}

// layers [b l h w] of rgba, planes [b l 3], walks [n b l 6], points [n 3] as (x, y, weight); gathered [b h w] of rgba,
// light [h w].
extern "C" __global__ void trace_layers(const float4 *layers, const float *planes, const float *walks,
                                        const float *points, float4 *gathered, float *light, int n_images,
                                        int n_layers, int height, int width, int n_rays, float cat_eye,
                                        float spacing) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    const int image = blockIdx.z;
    if (column >= width || row >= height) return;
    const float px = (float)column + 0.5f, py = (float)row + 0.5f;
    const float middle_x = 0.5f * (float)width, middle_y = 0.5f * (float)height;
    const float shift = cat_eye / sqrtf(middle_x * middle_x + middle_y * middle_y);
    const float shift_x = shift * (px - middle_x), shift_y = shift * (py - middle_y);
    layers += (size_t)image * n_layers * height * width;
    planes += 3 * image * n_layers;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float sum_light = 0.0f;
    for (int first = 0; first < n_rays; first += RAYS_PER_SUM) {
        float4 some = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        float some_light = 0.0f;
        for (int i = first; i < n_rays && i < first + RAYS_PER_SUM; ++i) {
            const float *point = points + 3 * i;
            float carried = point[2];
            if (cat_eye > 0.0f) carried *= unvignetted(point[0], point[1], shift_x, shift_y, spacing);
            const float *walk = walks + (size_t)6 * n_layers * (i * n_images + image);
            const float4 seen = look_through(layers, planes, walk, px, py, n_layers, height, width);
            some.x += carried * seen.x;
            some.y += carried * seen.y;
            some.z += carried * seen.z;
            some.w += carried * seen.w;
            some_light += carried;
        }
        sum = make_float4(sum.x + some.x, sum.y + some.y, sum.z + some.z, sum.w + some.w);
        sum_light += some_light;
    }
    const size_t pixel = (size_t)row * width + column;
    gathered[(size_t)image * height * width + pixel] = sum;
    if (image == 0) light[pixel] = sum_light;
}
"""
)
