"""What `bokehdiff render` can be asked for, in sections, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from bokehdiff.cli.options import Alias
from bokehdiff.cli.sweeps import SWEEP_SUFFIXES, SweepOptions, sweep_problems
from bokehdiff.errors import InputError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".exr")


@dataclass(frozen=True)
class MapOptions:
    """What belongs to each photograph.

    Args:
        depth_is: What the maps hold: disparity (larger is nearer), metric (distance in m), or inverse (1 / distance in
            1/m). --K needs [0, 1], to which the latter two are stretched.
        depth_scale: Metres per unit of metric maps. Integers are read as shares of their largest value: 65.535 for
            millimetres in 16 bits [1].
        disparity_key: Name of the array in .npz files; none if they hold one.
        normalize_disparity: Stretch each map to [0, 1] first, as Dr. Bokeh and BokehMe do.
        invert_disparity: The maps are 0 at the nearest point.
        matte: Subject's soft mask, file or folder (grey, or a cut-out with transparency), that parts its hair from what
            is behind; not for "scatter".
    """

    depth_is: Literal["disparity", "metric", "inverse"] = "disparity"
    depth_scale: float = 1.0
    disparity_key: str | None = None
    normalize_disparity: bool = False
    invert_disparity: bool = False
    matte: str | None = None


@dataclass(frozen=True)
class FocusOptions:
    """What is in focus: one of these, or the centre (with --f-number the distance in EXIF).

    Args:
        focus: Disparity in focus, in the units of the map; in [0, 1] where it is stretched.
        focus_point: Focus on the point X,Y of the photograph [px].
        focus_box: Focus on the median of the box LEFT,TOP,RIGHT,BOTTOM [px].
        mask: Focus on the subject, bright in this mask: a file or a folder.
        focus_distance_m: Distance in focus [m]; for --f-number or maps of distance.
    """

    focus: float | None = None
    focus_point: str | None = None
    focus_box: str | None = None
    mask: str | None = None
    focus_distance_m: float | None = None


@dataclass(frozen=True)
class LensOptions:
    """How wide the blur is: --K, or a camera's numbers.

    Args:
        K: Radius of the blur at one unit of disparity from the focus [px]; none for 20, or for what --f-number says.
        f_number: Opening of a real lens, such as 1.8; the maps are 1 / distance then, or with --depth-is
            metric distance.
        focal_length_mm: True focal length [mm]; none for EXIF's.
        sensor_width_mm: Width of the sensor [mm]; none for EXIF's, else 36.
        largest_radius: Blur no wider than this, whatever the disparity [px]; none for no limit.
    """

    K: float | None = None
    f_number: float | None = None
    focal_length_mm: float | None = None
    sensor_width_mm: float | None = None
    largest_radius: float | None = None


@dataclass(frozen=True)
class ApertureOptions:
    """Shape of the opening, and the faults of the glass.

    Args:
        blades: Blades of the aperture, 3 or more; 0 for a disc.
        blade_rotation_deg: Turn of the blades or of the image, clockwise in the picture [degree].
        blade_rounding: Curvature of the blades: 0 straight, 1 a disc.
        aperture_image: Picture of the opening, white where light passes; what lies outside its circle is cut off.
        spherical_aberration: Rim of the discs: 1 bright (soap bubbles), 0 even, -1 faint (smooth).
        cat_eye: How far discs become lemons towards the corners, 0 to 1.
        vignetting: Let the light that cat's eyes cut off be missing.
        focus_shift_rgb: Longitudinal colour error R,G,B: added to the disparity in focus of each colour; 0,0,0.01 rims
            blur behind the focus with blue.
        magnification_rgb: Lateral colour error R,G,B: size of each colour's picture; 1.001,1,0.999 rims the corners.
    """

    blades: int = 0
    blade_rotation_deg: float = 0.0
    blade_rounding: float = 0.0
    aperture_image: str | None = None
    spherical_aberration: float = 0.0
    cat_eye: float = 0.0
    vignetting: bool = False
    focus_shift_rgb: str | None = None
    magnification_rgb: str | None = None


@dataclass(frozen=True)
class PictureOptions:
    """How the picture is computed.

    Args:
        method: layered (sees past depth edges and parts their pixels by colour), occlusion_aware (sees past them as
            the map has them), scatter (only what the photograph shows), or auto for the best.
        inpainting: What makes up hidden surfaces: diffusion, telea, navier-stokes, or a TorchScript file (LaMa).
        highlights: How many times brighter than white clipped lights were, guessed back for the blur: lights
            bloom, what is in focus stays; 1 for none.
        transfer: How display values become light: gamma22, the piecewise srgb curve, or an exponent such as 1.8; files
            that hold light (.exr, .hdr) need none.
        device: Where to compute: cpu, cuda, cuda:1, mps, or auto for the best there is.
    """

    method: Literal["auto", "layered", "occlusion_aware", "scatter"] = "auto"
    inpainting: str = "diffusion"
    highlights: float = 1.0
    transfer: Literal["gamma22", "srgb"] | float = "gamma22"
    device: str = "cpu"


@dataclass(frozen=True)
class ResultOptions:
    """What is written, and how many at a time.

    Args:
        format: File format of the results; exr holds light as it is, 32 bits and beyond white (extra exr).
        bit_depth: Bits per channel of the results: 8, or 16 for png and tif.
        skip_existing: Leave photographs alone whose result is there; else it is replaced.
        save_intermediates: Folder for what the renderer works with, as pictures to look at: disparity, signed
            circles of confusion, surfaces with what was made up behind them.
        verbose: The same, to a folder "intermediates" beside the results.
        jobs: Photographs rendered at a time, each by a process of its own; 0 for one per core. Changes time and memory,
            not the result.
    """

    format: Literal["png", "jpg", "webp", "tif", "exr"] = "png"
    bit_depth: int = 8
    skip_existing: bool = False
    save_intermediates: str | None = None
    verbose: bool = False
    jobs: int = 1


@dataclass(frozen=True)
class RenderOptions:
    """Blur photographs as a lens of your choice would, without any network.

    Each photograph NAME.jpg needs its disparity: a file, or a folder with NAME.npy, NAME_pred.npy, NAME_depth.png and
    the like; `bokehdiff prepare` predicts it. Results: OUTPUT_DIR/NAME.png, with the settings in their comment.

    For example, focused on the pixel (240, 160): bokehdiff render a.jpg a_depth.png --focus-point 240,160 --K 30. The
    flags of Dr. Bokeh's Inference.py and of BokehMe's demo.py are understood too.

    Args:
        image: Photographs, all in focus: a file, a folder, or a pattern such as "photos/**/*.jpg". Subfolders are kept.
        disparity: Disparity, larger is nearer: a file for one photograph, or a folder; none looks beside the photograph
            and in ../depth.
        output_dir: Folder of the results.
        output: Instead, for one photograph, the file to write: its suffix is the format; .gif or .mp4 for a sweep.
        maps: What belongs to each photograph.
        focus: What is in focus.
        lens: How wide the blur is.
        aperture: Shape of the opening.
        picture: How the picture is computed.
        sweep: Many pictures.
        result: What is written.
    """

    image: str = ""
    disparity: str | None = None
    output_dir: str = "bokehdiff_render"
    output: str | None = None
    maps: MapOptions = field(default_factory=MapOptions)
    focus: FocusOptions = field(default_factory=FocusOptions)
    lens: LensOptions = field(default_factory=LensOptions)
    aperture: ApertureOptions = field(default_factory=ApertureOptions)
    picture: PictureOptions = field(default_factory=PictureOptions)
    sweep: SweepOptions = field(default_factory=SweepOptions)
    result: ResultOptions = field(default_factory=ResultOptions)


POSITIONAL = ("image", "disparity")


def _radius_of_window(text: str) -> str:
    """Dr. Bokeh gathers in a window of so many pixels, which cuts discs off at half of it."""
    try:
        return str(int(text) // 2)
    except ValueError:
        raise InputError(f"must be the side of a window [px]; got {text!r}") from None


def _fraction(text: str) -> str:
    """BokehMe's own example says 90/255."""
    try:
        return str(float(Fraction(text)))
    except (ValueError, ZeroDivisionError):
        raise InputError(f"must be a number; got {text!r}") from None


# Flags of Dr. Bokeh's Inference.py and BokehMe's demo.py, and short forms of ours.
ALIASES: Mapping[str, Alias] = {
    "rgb": Alias("image"),
    "disp": Alias("disparity"),
    "K_blur": Alias("K"),
    "-K": Alias("K"),
    "focal": Alias("focus", _fraction),
    "lens": Alias("largest_radius", _radius_of_window),
    "alpha": Alias("matte"),
    "gamma": Alias("transfer"),
    "ofile": Alias("output"),
    "image_path": Alias("image"),
    "disp_path": Alias("disparity"),
    "disp_focus": Alias("focus", _fraction),
    "save_dir": Alias("output_dir"),
    "focal_length": Alias("focal_length_mm"),
    "sensor_width": Alias("sensor_width_mm"),
    "distance": Alias("focus_distance_m"),
    "f": Alias("f_number"),
}


def check_options(options: RenderOptions) -> None:
    """Refuse what contradicts itself, or can never work, before any file is read.

    Args:
        options: The command line.
    """
    if not options.image:
        raise InputError("is needed: a photograph, a folder or a pattern", flag="--image")
    for problem in (*_lens_problems(options), *_focus_problems(options), *_result_problems(options)):
        raise problem


def _lens_problems(options: RenderOptions) -> Iterator[InputError]:
    lens, maps = options.lens, options.maps
    if lens.f_number is None:
        for flag, _ in _given({"--focal-length-mm": lens.focal_length_mm, "--sensor-width-mm": lens.sensor_width_mm}):
            yield InputError("describes a real lens, which needs --f-number too", flag=flag)
    elif lens.K is not None:
        yield InputError("pass either --K or --f-number, not both", flag="--K")
    if lens.f_number is not None and (maps.normalize_disparity or maps.invert_disparity):
        flag = "--normalize-disparity" if maps.normalize_disparity else "--invert-disparity"
        yield InputError("metric disparity, which --f-number needs, must stay as it is", flag=flag)
    if maps.depth_is != "disparity" and (maps.normalize_disparity or maps.invert_disparity):
        flag = "--normalize-disparity" if maps.normalize_disparity else "--invert-disparity"
        yield InputError(
            f"is for maps of disparity; --depth-is {maps.depth_is} is turned and stretched anyway", flag=flag
        )
    if lens.largest_radius is not None and not lens.largest_radius > 0:
        yield InputError(f"must be above 0 px; got {lens.largest_radius:g}", flag="--largest-radius")
    if not maps.depth_scale > 0:
        yield InputError(f"must be above 0; got {maps.depth_scale:g}", flag="--depth-scale")


def _focus_problems(options: RenderOptions) -> Iterator[InputError]:
    focus = options.focus
    given = [
        flag
        for flag, _ in _given(
            {
                "--focus": focus.focus,
                "--focus-point": focus.focus_point,
                "--focus-box": focus.focus_box,
                "--mask": focus.mask,
                "--focus-distance-m": focus.focus_distance_m,
            }
        )
    ]
    if len(given) > 1:
        yield InputError(f"the focus is given more than once: {', '.join(given)}", flag=given[1])
    if focus.focus_distance_m is not None:
        if options.lens.f_number is None and options.maps.depth_is == "disparity":
            yield InputError(
                "a distance needs maps that know distances: --f-number, or --depth-is metric or inverse",
                flag="--focus-distance-m",
            )
        if not focus.focus_distance_m > 0:
            yield InputError(f"must be above 0 m; got {focus.focus_distance_m:g}", flag="--focus-distance-m")


def _result_problems(options: RenderOptions) -> Iterator[InputError]:
    yield from sweep_problems(options.sweep)
    if options.result.jobs < 0:
        yield InputError(f"must be 0 or more; got {options.result.jobs}", flag="--jobs")
    if options.sweep.is_asked and wants_intermediates(options):
        flag = "--verbose" if options.result.verbose else "--save-intermediates"
        yield InputError("shows how one picture is made: leave out the sweep", flag=flag)
    if options.output is not None:
        yield from _output_problems(Path(options.output).suffix.lower(), options)


def _output_problems(suffix: str, options: RenderOptions) -> Iterator[InputError]:
    if suffix not in (*PICTURE_SUFFIXES, *SWEEP_SUFFIXES):
        known = ", ".join((*PICTURE_SUFFIXES, *SWEEP_SUFFIXES))
        yield InputError(
            f"must be a file with one of {known}; got {options.output!r} (for a folder: --output-dir)", flag="--output"
        )
    if suffix in SWEEP_SUFFIXES and not options.sweep.is_asked:
        yield InputError(
            f"{suffix} holds a sweep: --focus-sweep or --aperture-sweep with 2 or more pictures", flag="--output"
        )
    if suffix in PICTURE_SUFFIXES and options.sweep.is_asked:
        yield InputError(f"{suffix} holds one picture: pass a .gif or .mp4, or --output-dir", flag="--output")


def _given(flags: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((flag, value) for flag, value in flags.items() if value is not None)


def wants_intermediates(options: RenderOptions) -> bool:
    """Whether what the renderer works with is written too.

    Args:
        options: The command line.
    """
    return options.result.verbose or options.result.save_intermediates is not None


def numbers(text: str, form: str, *, flag: str) -> list[float]:
    """Numbers with commas between them.

    Args:
        text: The command line's word.
        form: What is expected, such as "X,Y".
        flag: The flag at fault where it is something else.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != len(form.split(",")):
        raise InputError(f"expected {form}; got {text!r}", flag=flag)
    return found
