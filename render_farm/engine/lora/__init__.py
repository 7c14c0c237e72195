"""LoRAs: from a file of any naming to branches beside the transformer's linear layers."""
