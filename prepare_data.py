"""The seed's `python prepare_data.py ...`: the same as `bokehdiff prepare ...`."""

import sys

from bokehdiff.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
