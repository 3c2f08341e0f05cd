"""``python -m plugmeter`` is the console script ``plugmeter``."""

try:
    from plugmeter.cli import main
except KeyboardInterrupt:  # Ctrl-C while it was still loading: there is nothing to tell of
    raise SystemExit(130) from None

if __name__ == "__main__":
    raise SystemExit(main())
