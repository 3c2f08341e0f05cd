"""One module for each command of the console script; ``cli.py`` puts them on the command line."""
