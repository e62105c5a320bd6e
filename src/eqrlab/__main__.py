"""`python -m eqrlab` is the command line `eqrlab`."""

from eqrlab.analyses.cli import main

if __name__ == "__main__":
    main()
