"""Closed forms that give a pruned model back what it lost, from a few unlabelled inputs."""
