"""`[timeouts]`: how long the farm waits for each thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from render_farm.config import Table, setting

_YEAR_S = 365 * 24 * 3600


def _seconds(default: float, doc: str, *, may_be_0: bool = False) -> Any:
    # Waiting for much longer overflows what the system's calls take.
    return setting(default, doc, unit="seconds", limits={"ge" if may_be_0 else "gt": 0, "le": _YEAR_S})


@dataclass(frozen=True, kw_only=True)
class Timeouts(Table):
    """How long the farm waits before it acts. Tests shorten these."""

    variables: ClassVar[str] = "RENDER_FARM_"

    hang_floor_s: float = _seconds(
        60.0,
        "A group that reports no step for this long, or for 10 usual steps if that is longer, is ended.",
    )
    first_step_floor_s: float = _seconds(600.0, "The same for the first step of a segment, which may compile or load.")
    store_floor_s: float = _seconds(
        900.0,
        "How long storing a segment may take after its last step. Keep it above `cluster_patience_s`, which is part of "
        "it.",
    )
    finish_floor_s: float = _seconds(
        1800.0, "Finishing a film (decoding, encoding, publishing) is ended when it writes nothing for this long."
    )
    group_s: float = _seconds(120.0, "How long a rank of a render group waits for the others in an exchange.")
    lease_s: float = _seconds(30.0, "The process that holds a run counts as gone after this long without a renewal.")
    worker_start_s: float = _seconds(600.0, "A worker that has not answered by then is started again.")
    keep_workers_s: float = _seconds(
        0.0,
        "How long a shared cluster's workers stay up with their models loaded when nothing is left to render. Use it "
        "for runs that follow one another. 0 releases their devices at once.",
        may_be_0=True,
    )
    preemption_grace_s: float = _seconds(
        25.0,
        "How long a worker that got a SIGTERM may continue, if that is enough to complete its segment.",
        may_be_0=True,
    )
    step_checkpoint_s: float = _seconds(
        0.0,
        "How often the state of a segment is stored between its steps, so that a lost worker costs no more than this. "
        "0 stores it only when a worker is asked to end. It pays off where a segment takes many minutes. The same kind "
        "of device continues bit for bit.",
        may_be_0=True,
    )
    cluster_patience_s: float = _seconds(
        600.0,
        "How long consecutive faults of the cluster (storage, network) are waited out before a job fails. A worker "
        "keeps a rendered segment for as long and retries storing it.",
        may_be_0=True,
    )
