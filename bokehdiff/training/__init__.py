"""One-step LoRA training: configuration, building, steps, checkpoints and the loop that tells the story.

The configuration imports no torch, so this package imports nothing by itself: `bokehdiff.training.config.TrainConfig`
describes a run, `bokehdiff.training.loop.train` does it.
"""
