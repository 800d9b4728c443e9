"""Entry point of every image."""

import sys

from harness.serve import main

sys.exit(main())
