"""The verb `plan`: segments, GPU-hours and cost of a manifest, and the choice of render groups."""
