"""What a compile did: one frozen value, as JSON for machines and as text for people."""
