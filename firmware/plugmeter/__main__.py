"""``python -m plugmeter`` is the console script ``plugmeter``."""

from plugmeter.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
