"""The weights stage: from a preset, a folder or an address to modules on a device.

Finding and reading checkpoints, checking that they fit, and keeping, offloading or quantising what was loaded."""
