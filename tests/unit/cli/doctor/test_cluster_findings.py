"""What doctor says of a cluster's machines."""

from __future__ import annotations

from render_farm.cli.doctor.cluster_findings import findings_of
from render_farm.farm.ray_cluster.check import MachineReport


def test_machines_with_the_same_problem_are_on_one_line():
    reports = [MachineReport(host=f"h{n}", problems=("cannot write at s3://b: denied",)) for n in range(8)]
    reports += [MachineReport(host="g", problems=(), num_gpus=0, has_gpu_driver=True)]
    storage, gpus = findings_of(reports, "s3://b")
    assert storage.status == "broken" and "h0, h1, h2, h3, h4 and 3 more: cannot write" in storage.detail
    assert gpus.status == "note" and "g: has a GPU driver" in gpus.detail
    (fine,) = findings_of([MachineReport(host="h", problems=(), num_gpus=8, has_gpu_driver=True)], None)
    assert fine.status == "ok" and "give --output" in fine.detail
