"""One sink per output, fed with finished records."""
