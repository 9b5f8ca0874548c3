"""The seed's `python train_lora_otf.py ...`: the same as `bokehdiff train ...`."""

import sys

from bokehdiff.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
