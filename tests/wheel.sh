#!/usr/bin/env bash
# Tests a wheel as its users have it: in a fresh environment, without a compiler, and without the source.
#   bash tests/wheel.sh WHEEL [ARGUMENTS OF PYTEST]
# The interpreter is $PYTHON, or python3. Only wheels are installed, and on the way to programs there is no compiler.
set -euo pipefail
wheel=$(realpath "$1")
shift
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/venv"
mkdir "$work/programs" "$work/copy"
IFS=: read -ra folders <<<"$PATH"
for folder in "${folders[@]}"; do
  for program in "$folder"/*; do
    case ${program##*/} in
      cc | c[0-9]* | c++* | cpp* | *g++* | *gcc* | *clang* | as | ld | ld.* | gold | tcc | *-as | *-ld | *-ld.* | cmake* | ninja* | make) ;;
      python* | pip*) ;;  # only the environment's own
      *) [ -e "$work/programs/${program##*/}" ] || ln -s "$program" "$work/programs/" ;;
    esac
  done
done
export PATH="$work/venv/bin:$work/programs" VIRTUAL_ENV="$work/venv" CC=/bin/false CXX=/bin/false
unset PYTHONPATH
for compiler in cc c++ gcc g++ clang clang++ cmake; do
  if command -v "$compiler"; then exit 1; fi
done

pip install -q --only-binary :all: "$wheel[test]"
for part in tests examples reliability docs README.md pyproject.toml; do # as cibuildwheel's test-sources
  cp -r "$root/$part" "$work/copy/"
done
cd "$work/copy"
python - <<'PY'
import shardwise
from shardwise import _native
assert "site-packages" in _native.__file__, _native.__file__
print(f"tested: {_native.__file__.rpartition('/')[2]}, shardwise {shardwise.__version__}")
PY
python -m pytest -p no:cacheprovider "${@:-tests}"
