"""What `vae.py` is made of: arrays and tensors, no configuration, cohort or run folder."""
