"""The data sets as TFDS data sets, without TensorFlow: `python -m tadjax.prepare.builders`."""
