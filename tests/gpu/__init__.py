"""What only a GPU can say, in minutes: `make gpu`. See README.md."""
