"""One network of a finished run as an ordinary checkpoint, with its source and a model card."""
