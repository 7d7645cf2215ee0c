"""What goes into a bundle for OpenVINO Model Server beside its models."""
