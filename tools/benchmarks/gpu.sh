#!/usr/bin/env bash
# Everything that needs a GPU, in one go: are the kernel's results right there, and what does it cost?
#
#   tools/benchmarks/gpu.sh [STAGE...]      default: decisive kernel transport codec training
#   tools/benchmarks/gpu.sh prepare         only for a machine without network: fetch the wheels it will need
#
#   decisive   in a few minutes, with torch, Triton and timm alone: the kernel against float64, a loss in multiples of
#              KeypointMSELoss, a training step of HRNet; written after each part
#   kernel     the tests of the Triton kernel, compiled instead of interpreted; autocast, CUDA graphs, torch.compile
#   transport  the loss alone against KeypointMSELoss and other solvers, and its scaling
#   codec      decoding, against MMPose's per-sample decoder
#   training   whole training steps, four networks, 17 and 133 keypoints, fp32 and mixed precision; of one network: training-NAME,
#              with one of res152 hrnet-w32 hrnet-w48 hrformer-base for NAME
#
# Results go to $OUT (default work_dirs/benchmarks): benchmarks.log, a JSON file per stage, and benchmarks.md, a copy of
# docs/benchmarks.md with the new tables in it. No time is printed by a stage whose results are wrong. A stage ends after MINUTES
# (default 9), each network of `training` counting as two of its own; what was finished of it is kept, and the next call goes on.
# Without MMPose on the machine the folder data/wheels is installed to SITE (`prepare`, 8 MiB, fills it on one with network).
set -uo pipefail
cd "$(dirname "$0")/../.."
# `prepare` reads the sources of xtcocotools, for which the environment that `make install` makes has what it takes.
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
WHEELS=${WHEELS:-data/wheels}
SITE=${SITE:-$PWD/work_dirs/gpu_site}
OUT=${OUT:-work_dirs/benchmarks}
MINUTES=${MINUTES:-9}
export PYTHONPATH="$SITE:$PWD${PYTHONPATH:+:$PYTHONPATH}"

prepare() {
    WHEELS="$WHEELS" PYTHON="$PYTHON" tools/studies/gpu.sh prepare
    "$PYTHON" -m pip download -q --no-deps -d "$WHEELS" pytest==8.4.2 pluggy==1.6.0 iniconfig==2.1.0 pygments==2.19.2
}

training() {  # of one network
    local common=(--device cuda --models "$1" --resume --json "$OUT/training.json" --markdown "$OUT/benchmarks.md")
    stage "training-$1" "$PYTHON" tools/benchmarks/training.py "${common[@]}"
    stage "training-$1, 133 keypoints" "$PYTHON" tools/benchmarks/training.py "${common[@]}" --keypoints 133 --precision fp32 bf16
}

install() {
    [ -n "${installed:-}" ] || [ ! -d "$WHEELS" ] || WHEELS="$WHEELS" PYTHON="$PYTHON" SITE="$SITE" tools/studies/gpu.sh install mmpose.models pytest
    installed=yes
}

# name, then a command: its output to the terminal and to the log
stage() {
    local name=$1 status
    shift
    echo "== $name: $*" | tee -a "$OUT/benchmarks.log"
    timeout "$((60 * MINUTES))" "$@" 2>&1 | tee -a "$OUT/benchmarks.log"
    status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || { echo "== $name: exit status $status"; failed+=("$name"); }
}

run() {
    failed=()
    "$PYTHON" -c 'import torch; raise SystemExit(None if torch.cuda.is_available() else "torch sees no GPU")' || exit 1
    mkdir -p "$OUT/images"
    [ -f "$OUT/benchmarks.md" ] || cp docs/benchmarks.md "$OUT"
    { nvidia-smi; "$PYTHON" -m pip list 2> /dev/null; } >> "$OUT/benchmarks.log" 2>&1
    for name in "$@"; do
        [ "$name" = decisive ] || install
        case $name in
            decisive)
                stage decisive "$PYTHON" tools/benchmarks/gpu.py --json "$OUT/decisive.json" --markdown "$OUT/benchmarks.md" ;;
            kernel)
                stage kernel "$PYTHON" -m pytest -q -p no:cacheprovider --durations=5 -m '' -k 'not interpreted' \
                    tests/transport/triton_emd_kernel.py tests/transport/test_triton_emd.py ;;
            transport)
                stage transport "$PYTHON" tools/benchmarks/transport.py --device cuda --batch 64 --size 96 72 \
                    --json "$OUT/transport.json" --markdown "$OUT/benchmarks.md"
                stage scaling "$PYTHON" tools/benchmarks/transport.py --device cuda --scaling --plot "$OUT/images/scaling_cuda.png" \
                    --json "$OUT/scaling.json" --markdown "$OUT/benchmarks.md" ;;
            codec)
                stage codec "$PYTHON" tools/benchmarks/codec.py --device cuda --json "$OUT/codec.json" --markdown "$OUT/benchmarks.md" ;;
            training)
                for network in res152 hrnet-w32 hrnet-w48 hrformer-base; do training "$network"; done ;;
            training-*)
                training "${name#training-}" ;;
            *)
                echo "unknown stage $name" >&2
                exit 2 ;;
        esac
    done
    [ ${#failed[@]} = 0 ] || { echo "not finished: ${failed[*]} (see $OUT/benchmarks.log)"; exit 1; }
}

case "${1:-}" in
    prepare) prepare ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" ;;
    '') run decisive kernel transport codec training ;;
    *) run "$@" ;;
esac
