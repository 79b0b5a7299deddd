"""`python -m dna_fast …` is `dna-fast …`."""

import sys


def main() -> None:
    """Runs the command line, or says what to install for it."""
    try:
        from dna_fast.cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"error: the command line needs {error.name}; install it with: pip install 'dna_fast[torch]'")
    run()


if __name__ == "__main__":
    main()
