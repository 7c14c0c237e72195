"""What Ray knows about machines: nodes, GPUs, placement groups, draining and the autoscaler.

Used by workers, the coordinator and the driver."""
