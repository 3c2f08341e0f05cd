"""The sub-commands of ``plugmeter bench``, a module each; ``commands/bench.py`` lists them."""
