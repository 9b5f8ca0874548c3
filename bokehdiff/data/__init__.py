"""What the physics works on: training pairs composed on the fly, a procedural training set, folders of scenes."""

from bokehdiff.data.composition import (
    CameraRange,
    Composition,
    LensRange,
    PresetName,
    SceneRange,
    ToldRange,
    preset,
)
from bokehdiff.data.compositor import OnTheFlyDataset, compose
from bokehdiff.data.folders import TrainingFolders, find_training_folders, load_background, load_foreground
from bokehdiff.data.ingredients import scenery_light, subject_light
from bokehdiff.data.loader import training_loader
from bokehdiff.data.recipe import Ground, Recipe, Shadow, Shot, Subject, Told, draw_recipe
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
    "CameraRange",
    "Composition",
    "Ground",
    "LensRange",
    "OnTheFlyDataset",
    "PresetName",
    "Recipe",
    "Scene",
    "ScenePaths",
    "SceneRange",
    "Shadow",
    "Shot",
    "Subject",
    "Told",
    "ToldRange",
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
    "preset",
    "scenery_light",
    "subject_light",
    "synthetic_background",
    "synthetic_foreground",
    "training_loader",
    "write_training_set",
]
