"""What the physics works on: training pairs composed on the fly or photographed, procedural sets, scenes."""

from bokehdiff.data.ahead import ComposeOn, training_batches
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
from bokehdiff.data.loader import RankBatches, SampleSource, training_loader
from bokehdiff.data.pairs import Layout, Pair, PairPaths, Split, find_pairs, load_pair
from bokehdiff.data.procedural.crops import EndlessCrops, write_pictures
from bokehdiff.data.procedural.synthetic import (
    SMALLEST_SYNTHETIC_PX,
    synthetic_background,
    synthetic_foreground,
    write_training_set,
)
from bokehdiff.data.recipe import Ground, Recipe, Shadow, Shot, Subject, Told, draw_recipe
from bokehdiff.data.samples import TrainBatch, TrainSample, collate
from bokehdiff.data.scenes import Scene, ScenePaths, find_photographs, find_scenes, load_scene
from bokehdiff.data.sources import MixedDataset, PairedDataset, SourceSpec, mix_in, parse_sources
from bokehdiff.data.turning import turned

__all__ = [
    "SMALLEST_SYNTHETIC_PX",
    "CameraRange",
    "ComposeOn",
    "Composition",
    "EndlessCrops",
    "Ground",
    "Layout",
    "LensRange",
    "MixedDataset",
    "OnTheFlyDataset",
    "Pair",
    "PairPaths",
    "PairedDataset",
    "PresetName",
    "RankBatches",
    "Recipe",
    "SampleSource",
    "Scene",
    "ScenePaths",
    "SceneRange",
    "Shadow",
    "Shot",
    "SourceSpec",
    "Split",
    "Subject",
    "Told",
    "ToldRange",
    "TrainBatch",
    "TrainSample",
    "TrainingFolders",
    "collate",
    "compose",
    "draw_recipe",
    "find_pairs",
    "find_photographs",
    "find_scenes",
    "find_training_folders",
    "load_background",
    "load_foreground",
    "load_pair",
    "load_scene",
    "mix_in",
    "parse_sources",
    "preset",
    "scenery_light",
    "subject_light",
    "synthetic_background",
    "synthetic_foreground",
    "training_batches",
    "training_loader",
    "turned",
    "write_pictures",
    "write_training_set",
]
