"""The seed's `python inference_hf.py ...`: the same as `bokehdiff infer ...`."""

import sys

from bokehdiff.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
