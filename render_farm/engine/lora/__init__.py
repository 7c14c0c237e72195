"""LoRAs: from a file of any naming to branches next to the transformer's linear layers."""
