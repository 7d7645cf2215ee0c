"""Templates for inference servers: copied into a bundle, never imported."""
