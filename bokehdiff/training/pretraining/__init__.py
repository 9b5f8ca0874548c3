"""Teaching the tiny SDXL what images look like, from nothing: its autoencoder first, then its UNet as a prior.

`config.PretrainConfig` describes it and imports no torch; `stages.pretrain` does it.
"""
