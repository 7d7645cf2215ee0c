#!/usr/bin/env bash
# A real Triton Inference Server for the tests, in a folder of its own.
#
#   scripts/triton_env.sh FOLDER      then   DIFFC_TRITON_ENV=FOLDER pytest -m slow tests/bundle
#
# nvidia-pytriton carries tritonserver with the python backend; it pins numpy<2, so it never shares
# an environment with diffc. Needs glibc 2.35 or later and Python 3.10 to 3.12 (PYTHON names it);
# no GPU and no container. FOLDER holds v (the environment), b (the backends) and env.sh, which says
# where the server's parts lie. Running it again on a finished folder does nothing.
set -euo pipefail

pytriton=0.7.0
folder=${1:?usage: scripts/triton_env.sh FOLDER}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [ -f "$folder/env.sh" ]; then
  echo "$folder is ready" >&2
  exit 0
fi

python=${PYTHON:-}
for candidate in python3.11 python3.12 python3.10; do
  [ -n "$python" ] || python=$(command -v "$candidate" || true)
done
[ -n "$python" ] || { echo "needs Python 3.10, 3.11 or 3.12: name one with PYTHON" >&2; exit 2; }

"$python" -m venv "$folder/v"
"$folder/v/bin/python" -m pip install --quiet "nvidia-pytriton==$pytriton" onnxruntime pillow tokenizers

site=$("$folder/v/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
version=$("$folder/v/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
libdir=$("$folder/v/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
triton="$site/pytriton/tritonserver"

# the python backend looks for its stub beside itself, built for this very Python
mkdir -p "$folder/b/python"
cp -r "$triton"/backends/python/. "$folder/b/python/"
cp "$triton/python_backend_stubs/$version/triton_python_backend_stub" "$folder/b/python/"

cat > "$folder/env.tmp" <<END
TRITON_SERVER=$triton/bin/tritonserver
TRITON_BACKENDS=$folder/b
TRITON_PATH=$folder/v/bin
TRITON_LIBRARIES=$site/nvidia_pytriton.libs:$libdir
END
mv "$folder/env.tmp" "$folder/env.sh"
echo "$folder is ready" >&2
