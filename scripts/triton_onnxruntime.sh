#!/usr/bin/env bash
# Triton's backend for ONNX Runtime, added to the server that scripts/triton_env.sh made.
#
#   scripts/triton_onnxruntime.sh FOLDER
#
# That server comes with the python backend alone. Triton's sources of its release are compiled here
# against the library in the wheel that FOLDER's Python has, so that an engine in its own backend and
# one in Python run in the same library. Needs g++, git and rapidjson (apt-get install g++ git
# rapidjson-dev); CXX names another compiler. SOURCES may name a folder that holds the repositories
# (common, core, backend, onnxruntime_backend, onnxruntime), which are not cloned then. Running it
# again where the backend is does nothing.
set -euo pipefail

release=r24.10 # of tritonserver 2.51.0, which nvidia-pytriton 0.7.0 has
folder=${1:?usage: scripts/triton_onnxruntime.sh FOLDER}
if [ ! -f "$folder/env.sh" ]; then
  echo "$folder has no server: scripts/triton_env.sh makes one" >&2
  exit 2
fi
folder=$(cd "$folder" && pwd)
to="$folder/b/onnxruntime"
if [ -d "$to" ]; then
  echo "$to is ready" >&2
  exit 0
fi

python="$folder/v/bin/python"
version=$("$python" -c 'from importlib.metadata import version; print(version("onnxruntime"))')
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

sources=${SOURCES:-$folder/sources}
cloned() { # FOLDER URL BRANCH, with further arguments for git clone
  [ -d "$sources/$1" ] || git clone --quiet --depth 1 --branch "$3" "${@:4}" "$2" "$sources/$1"
}
github=https://github.com
for repository in common core backend onnxruntime_backend; do
  cloned "$repository" "$github/triton-inference-server/$repository" "$release"
done
headers=include/onnxruntime/core/session
cloned onnxruntime "$github/microsoft/onnxruntime" "v$version" --filter=blob:none --sparse
[ -d "$sources/onnxruntime/$headers" ] ||
  git -C "$sources/onnxruntime" sparse-checkout set "$headers"

build="$folder/build"
made="$build/onnxruntime" # moved to its place when it is whole, for servers that start meanwhile
rm -rf "$build"
mkdir -p "$made"
library="$made/libonnxruntime.so.1" # its own name, which the wheel's file does not have
ln -s "$site"/onnxruntime/capi/libonnxruntime.so.* "$library"

objects=()
for file in "$sources"/onnxruntime_backend/src/*.cc \
  "$sources"/backend/src/backend_{common,memory,model,model_instance}.cc \
  "$sources"/backend/src/backend_{input_collector,output_responder}.cc \
  "$sources"/common/src/{async_work_queue,thread_pool,error}.cc; do
  objects+=("$build/$(basename "$file" .cc).o")
  "${CXX:-g++}" -std=c++17 -O2 -fPIC -w -DTRITON_ENABLE_STATS=1 \
    -I"$sources/onnxruntime_backend/src" -I"$sources/onnxruntime/$headers" \
    -I"$sources/core/include" -I"$sources/common/include" -I"$sources/backend/include" \
    -c "$file" -o "${objects[-1]}"
done
# the server's own functions stay undefined: the process that loads this has them
"${CXX:-g++}" -shared "${objects[@]}" "$library" -Wl,-rpath,'$ORIGIN' \
  -Wl,--version-script,"$sources/onnxruntime_backend/src/libtriton_onnxruntime.ldscript" \
  -o "$made/libtriton_onnxruntime.so"
mv "$made" "$to"
rm -r "$build"
echo "$to is ready (onnxruntime $version)" >&2
