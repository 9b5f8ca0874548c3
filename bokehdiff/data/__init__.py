"""What the physics works on: training pairs composed on the fly, a procedural training set, folders of scenes."""

from bokehdiff.data.compositor import Composition, OnTheFlyDataset, Recipe, compose, draw_recipe
from bokehdiff.data.folders import TrainingFolders, find_training_folders, load_background, load_foreground
from bokehdiff.data.loader import training_loader
from bokehdiff.data.samples import TrainBatch, TrainSample, collate
from bokehdiff.data.scenes import Scene, ScenePaths, find_scenes, load_scene
from bokehdiff.data.synthetic import (
    SMALLEST_SYNTHETIC_PX,
    synthetic_background,
    synthetic_foreground,
    write_training_set,
)

__all__ = [
    "SMALLEST_SYNTHETIC_PX",
    "Composition",
    "OnTheFlyDataset",
    "Recipe",
    "Scene",
    "ScenePaths",
    "TrainBatch",
    "TrainSample",
    "TrainingFolders",
    "collate",
    "compose",
    "draw_recipe",
    "find_scenes",
    "find_training_folders",
    "load_background",
    "load_foreground",
    "load_scene",
    "synthetic_background",
    "synthetic_foreground",
    "training_loader",
    "write_training_set",
]
