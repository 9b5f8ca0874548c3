"""Numbers that papers report, to stand beside ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    Args:
        dataset: As in `Record`.
        method: As the paper names it.
        numbers: By metric; what the paper does not tell is not there.
        source: Where it stands.
    """

    dataset: str
    method: str
    numbers: dict[str, float]
    source: str


BOKEHDIFF = "BokehDiff (ICCV 2025), arXiv 2507.18060"
VAL294 = "EBB! Val294"


def _val294(method: str, psnr: float, ssim: float, dists: float, lpips: float) -> Published:
    return Published(VAL294, method, {"psnr": psnr, "ssim": ssim, "dists": dists, "lpips": lpips}, BOKEHDIFF)


# The paper does not say which network its LPIPS has: it stands under a name of its own, beside ours.
PUBLISHED: tuple[Published, ...] = (
    _val294("BokehDiff (paper)", 24.652, 0.8357, 0.1155, 0.3737),
    _val294("BokehMe (paper)", 24.014, 0.8134, 0.1460, 0.3921),
    _val294("MPIB (paper)", 23.334, 0.7920, 0.1581, 0.4031),
    _val294("Dr. Bokeh (paper)", 23.479, 0.8221, 0.1225, 0.3771),
    _val294("DeepLens (paper)", 22.703, 0.7623, 0.1483, 0.4191),
    Published("BLB level 5", "BokehDiff (paper)", {"lpips": 0.0888}, BOKEHDIFF),
    Published("BLB level 5", "BokehMe (paper)", {"lpips": 0.1404}, BOKEHDIFF),
    Published("BLB level 5", "MPIB (paper)", {"lpips": 0.2561}, BOKEHDIFF),
    Published("BLB level 5", "Dr. Bokeh (paper)", {"lpips": 0.4539}, BOKEHDIFF),
    Published("BLB level 5", "DeepLens (paper)", {"lpips": 0.2976}, BOKEHDIFF),
)
