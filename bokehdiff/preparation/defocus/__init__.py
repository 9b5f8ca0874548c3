"""Depth from defocus: the search for lenses and disparity that make a sharp image look like its defocused ones."""

from bokehdiff.preparation.defocus.recovery import DefocusResult, depth_from_defocus, joint_db

__all__ = ["DefocusResult", "depth_from_defocus", "joint_db"]
