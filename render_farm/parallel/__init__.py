"""Several processes, usually a GPU each, render one segment together: Ulysses, ring and guidance parallelism.

```python
host = RendezvousHost()                       # in the process of rank 0; its `rendezvous` goes to every rank
seat = Seat(shape=GroupShape(cfg=2, ulysses=4), rank=rank, rendezvous=host.rendezvous)
with ProcessGroups(seat, device=engine.device, timeout_s=60) as groups:
    engine.render_segment(plan, k, ..., group=ParallelGroup(groups))  # on every rank; each gets the same latents
```
"""

from render_farm.parallel.group import ParallelGroup
from render_farm.parallel.process_group import BrokenGroupError, GroupError, ProcessGroups, Seat
from render_farm.parallel.rendezvous import Rendezvous, RendezvousHost
from render_farm.planning.groups import GroupShape

__all__ = [
    "BrokenGroupError",
    "GroupError",
    "GroupShape",
    "ParallelGroup",
    "ProcessGroups",
    "Rendezvous",
    "RendezvousHost",
    "Seat",
]
