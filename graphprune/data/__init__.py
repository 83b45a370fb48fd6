"""What a model is fed while it is being kept accurate: calibration inputs."""
