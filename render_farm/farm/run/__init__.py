"""Values that cross processes, and the record of a run.

Every process of the farm imports this package. It imports none of them, and knows nothing of Ray."""
