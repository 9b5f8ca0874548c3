"""`python -m bokehdiff`: the command line."""

from bokehdiff.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
