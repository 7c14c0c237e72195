"""The verb `doctor`: checks of this machine, of a cluster and of an output."""
