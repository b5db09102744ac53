"""``python -m clipper.cli`` is the ``clipper`` command."""

import sys

from . import main

sys.exit(main())
