"""The page for workers and their GPUs."""

from __future__ import annotations

from dashboards.farm import BUSY_SHARE
from dashboards.pages import Page, PanelRow, Shows, lines, number
from dashboards.queries import grown, quantile, rate, series, total
from render_farm.observability import metrics as m

_PHASES = "text|denoise|decode|encode|upload|checkpoint"

WORKERS = Page(
    name="workers",
    title="render_farm: workers and GPUs",
    help="What every worker does, how long work takes, and what it holds.",
    rows=(
        PanelRow(
            title="Now",
            panels=(
                number("Workers busy", "That have work.", total(m.WORKERS, state="busy")),
                number("Workers idle", "That are up and have none.", total(m.WORKERS, state="idle")),
                number(
                    "At work",
                    "The share of the workers' time in which they denoise or decode.",
                    BUSY_SHARE,
                    unit="percentunit",
                    decimals=1,
                ),
                number("Steps", "Per second, all workers together.", rate(m.STEPS), unit="ops", decimals=2),
                number(
                    "Keys and values",
                    "Of finished blocks, kept by the segments in work.",
                    total(m.KV_CACHE_BYTES),
                    unit="bytes",
                ),
                number(
                    "GPU memory in use",
                    "Of all nodes, as their drivers say it.",
                    "sum(ray_node_gram_used) * 1024 * 1024",
                    unit="bytes",
                    needs_gpu=True,
                ),
            ),
        ),
        PanelRow(
            title="Workers",
            panels=(
                lines(
                    "At work",
                    "The share of its time in which a worker denoises or decodes.",
                    (
                        f"{rate(m.BUSY_SECONDS, by='worker')} / {rate(m.WORKER_SECONDS, by='worker')}",
                        "{{worker}}",
                    ),
                    unit="percentunit",
                    width=12,
                ),
                lines(
                    "GPU utilisation",
                    "As the driver says it: some kernel was running.",
                    (
                        "avg by (NodeAddress, GpuIndex) (ray_node_gpus_utilization) / 100",
                        "{{NodeAddress}} {{GpuIndex}}",
                    ),
                    unit="percentunit",
                    width=12,
                    needs_gpu=True,
                ),
                lines(
                    "Memory of workers",
                    "Resident memory of the host, and what torch has reserved on the GPU.",
                    (f"sum by (worker, kind) ({series(m.WORKER_MEMORY)})", "{{worker}} {{kind}}"),
                    unit="bytes",
                    width=6,
                ),
                lines(
                    "Keys and values",
                    "Of finished blocks, by worker.",
                    (total(m.KV_CACHE_BYTES, by="worker"), "{{worker}}"),
                    unit="bytes",
                    width=6,
                ),
                lines(
                    "GPU memory",
                    "In use on each GPU, whoever uses it.",
                    (
                        "sum by (NodeAddress, GpuIndex) (ray_node_gram_used) * 1024 * 1024",
                        "{{NodeAddress}} {{GpuIndex}}",
                    ),
                    unit="bytes",
                    width=6,
                    needs_gpu=True,
                ),
                lines(
                    "Before the first step",
                    "Models whose prompts are being encoded, and segments that were handed out and have made no step "
                    "yet: weights are loaded, blocks compiled.",
                    (total(m.PREPARING, by="work"), "{{work}}"),
                    shows=Shows.STACK,
                    decimals=0,
                    width=6,
                ),
            ),
        ),
        PanelRow(
            title="How long work takes",
            panels=(
                lines(
                    "Half of the segments take less than",
                    "By phase. Decoding and encoding run alongside the next segment's denoising.",
                    (quantile(0.5, m.PHASE_SECONDS, by="phase", over="15m", phase=_PHASES), "{{phase}}"),
                    unit="s",
                ),
                lines(
                    "95 % of the segments take less than",
                    "By phase.",
                    (quantile(0.95, m.PHASE_SECONDS, by="phase", over="15m", phase=_PHASES), "{{phase}}"),
                    unit="s",
                ),
                lines(
                    "Workers' seconds a second",
                    "What is being done, by phase: 3 in `denoise` are three workers denoising.",
                    (rate(m.WORK_SECONDS, by="phase"), "{{phase}}"),
                    shows=Shows.STACK,
                ),
                lines(
                    "Render groups",
                    "Segments handed out within half an hour, by the number of workers that render them together.",
                    (grown(m.GROUP_SEGMENTS, over="30m", by="size"), "{{size}}"),
                    shows=Shows.STACK,
                    decimals=0,
                ),
                lines(
                    "Host CPU",
                    "By node.",
                    ("avg by (NodeAddress) (ray_node_cpu_utilization) / 100", "{{NodeAddress}}"),
                    unit="percentunit",
                ),
                lines(
                    "Host memory in use",
                    "By node.",
                    ("sum by (NodeAddress) (ray_node_mem_used)", "{{NodeAddress}}"),
                    unit="bytes",
                ),
            ),
        ),
    ),
)
