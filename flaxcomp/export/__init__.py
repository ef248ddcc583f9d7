"""From a trained Flax network to files for devices; the only home of TensorFlow."""
