#!/usr/bin/env bash
# Compares the engines of this bundle on this machine, with no network. Stopped or interrupted, it goes on where it was
# when it is started again.
#
#   ./run.sh [MODEL.gguf …]     default: random weights in the shape of Llama 3.2 1B, made here (Q8_0 1.3 GB, BF16 2.5 GB)
#
# OUT     folder of record and report (default: record, beside this file)
# BUDGET  about how long to measure, such as 30m (default: no limit; the estimate is printed first)
# PYTHON  the Python whose torch and mistralrs are measured, and whose CUDA libraries are used (default: python3)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/record}
export PYTHON=${PYTHON:-python3} BARELM_ENGINES=$here/bin

(cd "$here" && sha256sum --quiet -c SHA256SUMS) || { echo "the bundle is damaged: copy it again" >&2; exit 1; }

# CUDA's libraries where Python packages brought them; the driver's own is the system's.
libraries=$("$PYTHON" -c '
import importlib.util, pathlib
spec = importlib.util.find_spec("nvidia")
roots = spec.submodule_search_locations if spec else []
print(":".join(str(lib) for root in roots for lib in sorted(pathlib.Path(root).glob("*/lib"))))
' 2> /dev/null || true)
[ -z "$libraries" ] || export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

"$here/bin/barelm" doctor || echo "going on in spite of it: what is faulty gets rows that say so" >&2

models=("$@")
if [ ${#models[@]} -eq 0 ]; then
    mkdir -p "$here/models"
    for type in q8_0 bf16; do
        model=$here/models/random-llama-3.2-1b.$type.gguf
        [ -s "$model" ] || "$here/bin/barelm" synth "$model" --shape llama-3.2-1b --type "$type"
        models+=("$model")
    done
fi

# CUDA forms take part under names of their own.
more=()
for program in "$here"/bin/*-cuda-bench; do
    [ -x "$program" ] || continue
    name=$(basename "$program" -bench)
    more+=(--engine "$name=$program")
done
[ ! -s "$out/compare.jsonl" ] || more+=(--resume)
[ -z "${BUDGET:-}" ] || more+=(--budget "$BUDGET")

"$here/bin/barelm" compare "${models[@]}" --sustained 60s --out "$out" "${more[@]}"
"$here/bin/barelm" report "$out/compare.jsonl" --html "$out/report.html" --markdown "$out/report.md"
echo "record and report: $out"
