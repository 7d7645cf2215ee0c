#!/usr/bin/env bash
# An interpreter with optimum-onnx, for the tests of the layout that it reads.
#
#   scripts/optimum_env.sh FOLDER
#   DIFFC_OPTIMUM_PYTHON=FOLDER/bin/python pytest -m slow tests/layouts
#
# optimum-onnx wants an older transformers and diffusers than diffc, so it never shares an
# environment with it. PYTHON names another interpreter. Running it again on a finished folder does
# nothing.
set -euo pipefail

folder=${1:?usage: scripts/optimum_env.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
ready="$folder/.ready"
if [ -f "$ready" ]; then
  echo "$folder is ready" >&2
  exit 0
fi

"${PYTHON:-python3}" -m venv "$folder"
# torch first and pinned, as in the Makefile: nothing else then chooses a build of it
torch=$(grep '^torch==' "$here/../constraints.txt")
"$folder/bin/python" -m pip install --quiet "$torch"
"$folder/bin/python" -m pip install --quiet optimum-onnx onnxruntime 'diffusers<0.36'
touch "$ready"
echo "$folder is ready" >&2
