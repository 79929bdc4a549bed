"""One page in which a model runs: an ECG that changes as conditions and latents are changed."""
