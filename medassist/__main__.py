"""`python -m medassist …`: hands over to the command line."""

import sys

from medassist.cli import main

if __name__ == "__main__":
    sys.exit(main())
