#!/usr/bin/env bash
# The study on a GPU machine, within a given time, stage by stage; whatever is finished when the time is up is kept.
#
#   tools/studies/gpu.sh run [MINUTES [STAGE...]]     default: 600 minutes, all stages
#   tools/studies/gpu.sh prepare                      only for a machine without network: fetch the wheels it will need
#   tools/studies/gpu.sh install MODULE...            install them to $SITE unless all these modules can be imported
#
# Needs: data/lspet (tools/dataset_converters/convert_lspet.py, 54 MiB) and a Python with torch, torchvision, OpenCV, SciPy, matplotlib and
# this project's other dependencies. Where MMPose is not installed and there is no network, carry along the folder data/wheels
# that `prepare` fills (6.5 MiB): MMPose, MMDetection, MMEngine and mmcv-lite, all without compiled code, and the sources
# of xtcocotools, which is built there against that machine's NumPy (needs a C compiler and Cython). No network of the
# study uses a compiled operator of mmcv.
#
# Results: $OUT (default work_dirs/lspet_out) gets
#   evidence.md            the tables
#   results.tar.gz         result.json of every finished run, and the report with its plots and records
#   predictions.tar.xz     predictions of the finals
# Put results.tar.gz back as data/lspet_results.tar.gz (or name it in RESULTS) and the next call goes on from there; what
# was unfinished starts anew unless work_dirs/lspet is still there. JOBS runs at a time (default 3), one GPU for all.
set -euo pipefail
cd "$(dirname "$0")/../.."
# `prepare` reads the sources of xtcocotools, for which the environment that `make install` makes has what it takes.
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
WHEELS=${WHEELS:-data/wheels}
SITE=${SITE:-$PWD/work_dirs/gpu_site}
OUT=${OUT:-work_dirs/lspet_out}
RESULTS=${RESULTS:-data/lspet_results.tar.gz}
study=configs/lspet/study.yml

prepare() {
    "$PYTHON" -m pip download -q --no-deps -d "$WHEELS" mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0 mmpose==1.3.2 \
        addict==2.4.0 yapf==0.43.0 json-tricks==3.17.3 munkres==1.1.4 termcolor==3.3.0 setuptools==80.9.0
    "$PYTHON" -m pip download -q --no-deps --no-build-isolation --no-binary :all: -d "$WHEELS" xtcocotools==1.14.3
    ls -l "$WHEELS"
}

install() {
    export PYTHONPATH="$SITE${PYTHONPATH:+:$PYTHONPATH}"
    "$PYTHON" -c "import $(IFS=,; echo "$*")" 2>/dev/null && return
    [ -d "$WHEELS" ] || { echo "MMPose is not installed and there is no folder $WHEELS: see the head of $0" >&2; exit 1; }
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$SITE" "$WHEELS"/*.whl
    "$PYTHON" -m pip install -q --no-index --no-deps --no-build-isolation --no-cache-dir --target "$SITE" "$WHEELS"/xtcocotools-*
    # MMPose imports mmcv's operators; this stands in for them until one is called.
    cat > "$SITE/mmcv/_ext.py" <<'EXT'
def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(name)

    def missing(*args, **kwargs):
        raise NotImplementedError(f'mmcv was installed without its compiled operators: {name}')

    return missing
EXT
    "$PYTHON" -c 'import mmpose, mmcv.ops'
}

collect() {
    "$PYTHON" tools/study.py report "$study" --out work_dirs/lspet/report/evidence.md || true
    cp work_dirs/lspet/report/evidence.md "$OUT" || true
    (cd work_dirs && find lspet \( -name result.json -o -name fingerprint -o -path '*/report/*' \) -type f -print0 |
        tar --null -T - -czf - ) > "$OUT/results.tar.gz"
    (cd work_dirs && find lspet -path '*/finals/*' -name '*.keypoints.json' -print0 |
        tar --null -T - -cJf - ) > "$OUT/predictions.tar.xz"
}

run() {
    local end=$((SECONDS + 60 * ${1:-600})) stages=("${@:2}") left stage
    [ ${#stages[@]} -gt 0 ] || stages=(screen finals loss_vs_metric ablations)
    mkdir -p "$OUT" work_dirs/lspet
    install mmpose mmcv.ops
    [ ! -f "$RESULTS" ] || tar -xzf "$RESULTS" -C work_dirs
    trap collect EXIT  # also when a stage fails or the whole is interrupted
    for stage in "${stages[@]}"; do
        left=$((end - SECONDS - 45))  # the rest is for the report
        [ "$left" -gt 60 ] || { echo "no time left for $stage"; break; }
        "$PYTHON" tools/study.py run "$study" --stage "$stage" --jobs "${JOBS:-3}" --minutes "$(awk "BEGIN {print $left / 60}")" ||
            echo "$stage: some runs are not done (see above)"
    done
}

case "${1:-}" in
    prepare) prepare ;;
    install) install "${@:2}" ;;
    run) run "${@:2}" ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
