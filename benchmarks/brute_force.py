"""The field's kernel for layers, restated: what the CUDA tracer's speed is measured against.

One thread per pixel walks a square grid of lens points, skips those outside the disc, looks each layer up in the order
of the list, counts coverage below 1 % as none and above 99 % as whole, and drops rays that leave the picture. Constants
are double, as in the published source, so most of its arithmetic is; nothing is prefiltered. Needs CuPy and a GPU.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bokehdiff.optics import Lens
from bokehdiff.renderers import LayerStack

BLOCK = (16, 16, 1)
SOURCE = r"""
extern "C" __global__ void brute_force(const float *rgba, const float *planes, float *out, float focus, float strength,
                                       int n_side, int n_layers, int height, int width) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= width || row >= height) return;
    const float px = column + 0.5, py = row + 0.5;
    const size_t n_pixels = (size_t)height * width;
    double sum[3] = {0.0, 0.0, 0.0}, n_rays = 1e-5;
    for (int i = 0; i < n_side * n_side; ++i) {
        const double u = -1.0 + 2.0 * (i % n_side) / (n_side - 1), v = -1.0 + 2.0 * (i / n_side) / (n_side - 1);
        if (u * u + v * v > 1.0) continue;
        double passing = 1.0, seen[3] = {0.0, 0.0, 0.0};
        bool inside = true;
        for (int l = 0; l < n_layers && passing > 0.0; ++l) {
            const float c0 = planes[3 * l], cx = planes[3 * l + 1], cy = planes[3 * l + 2];
            const double defocus = strength * (c0 + cx * px + cy * py - focus);
            const double along = defocus / (1.0 - strength * (cx * u + cy * v) + 1e-5);
            const double x = px + along * u - 0.5, y = py + along * v - 0.5;
            if (!(x >= 0.0 && y >= 0.0 && x < width - 1.0 && y < height - 1.0)) { inside = false; break; }
            const int left = (int)x, top = (int)y;
            const double right_share = x - left, lower_share = y - top;
            double texel[4];
            for (int c = 0; c < 4; ++c) {
                const float *at = rgba + (4 * (size_t)l + c) * n_pixels + (size_t)top * width + left;
                texel[c] = (1.0 - lower_share) * ((1.0 - right_share) * at[0] + right_share * at[1])
                           + lower_share * ((1.0 - right_share) * at[width] + right_share * at[width + 1]);
            }
            if (texel[3] < 0.01) continue;
            for (int c = 0; c < 3; ++c) seen[c] += passing * texel[c];
            passing = texel[3] > 0.99 ? 0.0 : passing * (1.0 - texel[3]);
        }
        if (!inside) continue;
        for (int c = 0; c < 3; ++c) sum[c] += seen[c];
        n_rays += 1.0;
    }
    for (int c = 0; c < 3; ++c) out[c * n_pixels + (size_t)row * width + column] = sum[c] / n_rays;
}
"""


def brute_force(stack: LayerStack, lens: Lens, *, n_side: int) -> Float[Tensor, "3 h w"]:
    """The picture of one stack by the kernel above, without waiting for it.

    Args:
        stack: Of one image, on a GPU, nearest layer first.
        lens: Its opening counts as a disc.
        n_side: Of the grid of lens points; the field takes int(21 * times), 168 at its largest setting.
    """
    import cupy
    import numpy as np

    rgba, planes = stack.rgba_linear[0].float().contiguous(), stack.planes[0].float().contiguous()
    n_layers, _, height, width = rgba.shape
    picture = torch.empty(3, height, width, device=rgba.device)
    kernel = cupy.RawModule(code=SOURCE, options=("--std=c++14",)).get_function("brute_force")
    grid = (-(-width // BLOCK[0]), -(-height // BLOCK[1]), 1)
    pointers = [np.uintp(tensor.data_ptr()) for tensor in (rgba, planes, picture)]
    numbers = [np.float32(float(lens.focus_disparity)), np.float32(float(lens.strength_px))]
    stream = cupy.cuda.ExternalStream(torch.cuda.current_stream(rgba.device).cuda_stream)
    with cupy.cuda.Device(rgba.device.index), stream:
        kernel(grid, BLOCK, (*pointers, *numbers, *(np.int32(n) for n in (n_side, n_layers, height, width))))
    return picture
