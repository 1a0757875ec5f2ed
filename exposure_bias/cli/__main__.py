import sys

from exposure_bias.cli import main

sys.exit(main())
