"""From labels to groups: what can be pruned, what belongs together, what stays and why."""
