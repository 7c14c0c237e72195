"""Who renders what, when: a pure, deterministic state machine. Standard library only; it knows no Ray and no clock."""
