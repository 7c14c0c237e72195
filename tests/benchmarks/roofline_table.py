"""The predicted seconds of a step of every published checkpoint on an H100 and an H200, one and eight of them.

    python -m tests.benchmarks.roofline_table

Arithmetic only. The last line is the size for which LightX2V has published a measurement.
"""

from __future__ import annotations

from collections.abc import Iterator

from render_farm import RenderJob
from render_farm.cli.predict import predict
from render_farm.models import PRESETS
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.model_sizes import sizes_of_preset
from render_farm.planning.roofline import GPUS, H100, predicted_step, segment_work

PUBLISHED = "i2v-14b-540p"


def rows() -> Iterator[str]:
    own, each = (
        "| checkpoint | tokens | PFLOP a step | resident GB |",
        " {0} | attention | eager | 8 {0} | efficiency |",
    )
    yield own + "".join(each.format(name.upper()) for name in GPUS)
    yield "|---" * (4 + 5 * len(GPUS)) + "|"
    for name, preset in PRESETS.items():
        if not preset.hub_id:
            continue
        cells: list[str] = []
        for gpu in GPUS:
            found = predict(gpu, name, "sync", None)
            step = {row["setting"]: row for row in found["settings"]}
            one, eight = step["as it is"], next(row for row in found["settings"] if row["num_workers"] == 8)
            if not cells:
                cells += [name, f"{found['num_tokens']:,}", f"{found['petaflops_a_step']:.2f}"]
                cells.append(f"{found['resident_bytes'] / 1e9:.1f}")
            cells += [f"{one['step_s']:.2f}", f"{one['attention_s'] / one['step_s']:.0%}"]
            cells += [f"{step['compile off']['step_s']:.2f}", f"{eight['step_s']:.3f}"]
            cells.append(f"{one['step_s'] / 8 / eight['step_s']:.0%}")
        yield "| " + " | ".join(cells) + " |"


def published() -> str:
    size = {"height": 480, "width": 832, "num_frames": 81, "base_num_frames": 81}
    plan = plan_film(RenderJob(job_id="a", prompt="x", image="a.png", **size), spec_of_preset(PUBLISHED))
    sizes = sizes_of_preset(PRESETS[PUBLISHED])
    step = predicted_step(segment_work(plan, 0, sizes), sizes, H100)
    return f"{PUBLISHED} at 832x480, 81 frames, on one H100: {step.total_s:.2f} s"


if __name__ == "__main__":
    print("\n".join([*rows(), "", published()]))
