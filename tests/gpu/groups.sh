#!/usr/bin/env bash
# Eight GPUs of one machine: do they reach each other directly, how fast are groups, and what does a lost rank cost?
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-python}"
echo "## how GPUs reach each other (P2P/CUMEM is direct, SHM is by way of the host)"
NCCL_DEBUG=INFO "$python" -m render_farm.cli.main bench parallel --ranks 2 --shape 1.3b-540p --steps 2 2>&1 |
    grep -E "via |s/step" | sort | uniq -c | sort -rn | head -20
echo "## 1.3B and 14B, with decoding"
"$python" -m render_farm.cli.main bench parallel --ranks 1,2,8 --shape 1.3b-540p --decode
"$python" -m render_farm.cli.main bench parallel --ranks 1,8 --shape 14b-540p
echo "## a group of eight that loses a rank"
"$python" -m tests.benchmarks.group_faults
