"""cruijff-kit: from one experiment.yaml to fine-tuned and evaluated models."""

__version__ = "0.1.0"
