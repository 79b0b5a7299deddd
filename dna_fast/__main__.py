"""`python -m dna_fast …` is `dna-fast …`."""

from dna_fast.cli import main

if __name__ == "__main__":
    main()
