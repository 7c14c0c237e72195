"""The driver process behind `render` and `submit`.

It reads the manifest, prepares jobs, adds the run to the cluster's coordinator and shows progress."""
