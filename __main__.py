"""`python -m simsiam` is the `simsiam` command; under torchrun: `torchrun … -m simsiam pretrain …`."""

from simsiam.train.cli import main

if __name__ == "__main__":
    main()
