import sys

from exposure_bias.cli import main

if __name__ == "__main__":
    sys.exit(main())
