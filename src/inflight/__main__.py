"""`python -m inflight`: the command line."""

from inflight.cli.main import main

if __name__ == "__main__":
    main()
