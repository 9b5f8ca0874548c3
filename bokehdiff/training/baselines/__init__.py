"""Training of the networks that the field compares with: PyNET level by level, the Double V-Net against critics.

`config.BaselineConfig` describes it and imports no torch; `train.train_baseline` does it by the loop of `training`.
"""
