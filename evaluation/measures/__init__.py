"""One module per question: arrays in, numbers out."""
