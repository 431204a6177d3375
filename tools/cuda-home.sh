#!/usr/bin/env bash
# A CUDA 13.0 toolkit in one folder, from NVIDIA's packages on the Python package index: to build for CUDA without its
# installer, without root, and without a GPU. Downloads about 700 MB once; running programs needs the driver.
#
#   tools/cuda-home.sh FOLDER
#
# Prints nothing and downloads nothing where FOLDER is already what this file describes.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
case $(uname -sm) in
    "Linux x86_64") ;;
    *) echo "only for Linux on x86-64: set CUDA_HOME to a toolkit instead" >&2; exit 1 ;;
esac
home=$1
packages=(
    # compiler, its headers and its back end
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
    # headers and runtime that kernels and bindings are compiled with
    nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96 nvidia-cuda-profiler-api==13.0.85
    nvidia-nvtx==13.0.85 nvidia-cuda-culibos==13.0.85
    # libraries that programs are linked with
    nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35 nvidia-nvjitlink==13.0.88 nvidia-cuda-nvrtc==13.0.88
)
wanted="${packages[*]}"
# llama.cpp's crate asks for static libraries of cuBLAS, which no package has: empty ones, and its build script names the shared ones.
stand_ins() {
    for library in cublas cublasLt; do
        [ -e "$1/lib/lib${library}_static.a" ] || "${AR:-ar}" crs "$1/lib/lib${library}_static.a"
    done
}
if [ "$(cat "$home/packages" 2>/dev/null)" = "$wanted" ]; then
    stand_ins "$home"
    exit 0
fi

python=$(command -v python3) || { echo "python3 is missing" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/cuda-home.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work/wheels" "${packages[@]}"
for wheel in "$work"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$work/site"
    rm "$wheel"
done
tree=$work/site/nvidia/cu13
[ -d "$tree/bin" ] || { echo "the packages have another layout than expected" >&2; exit 1; }

# Archives keep no permissions.
chmod +x "$tree"/bin/* "$tree"/nvvm/bin/*
# Linkers look for names without version, and build scripts for `lib64`.
[ -e "$tree/lib64" ] || ln -s lib "$tree/lib64"
for library in "$tree"/lib/lib*.so.*; do
    name=${library##*/}
    [ -e "$tree/lib/${name%%.so.*}.so" ] || ln -s "$name" "$tree/lib/${name%%.so.*}.so"
done
# The driver's library comes with the driver. To link without one, a library with every name its headers declare.
mkdir -p "$tree/lib/stubs"
headers=("$tree"/include/cuda.h "$tree"/include/cudaTypedefs.h "$tree"/include/cudaProfiler.h)
grep -ohE '\bcu[A-Z][A-Za-z0-9]*(_v[0-9]+)?(_ptsz|_ptds)?\b' "${headers[@]}" | sort -u |
    sed 's/.*/int &(void) { return 100; }/' > "$work/driver.c"
"${CC:-cc}" -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$tree/lib/stubs/libcuda.so" "$work/driver.c"

stand_ins "$tree"
"$tree/bin/nvcc" --version > /dev/null
echo "$wanted" > "$tree/packages"
mkdir -p "$(dirname "$home")"
rm -rf "$home"
mv "$tree" "$home"
