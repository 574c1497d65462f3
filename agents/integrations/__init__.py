"""The pilot in training loops of other libraries, each an optional extra."""
