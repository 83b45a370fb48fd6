"""What rules of both front ends do with labels: contractions, broadcasts, statistics, attention."""
