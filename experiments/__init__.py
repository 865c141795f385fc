"""One script an experiment: python -m experiments.NAME --config=configs/FILE.py --workdir=DIR."""
