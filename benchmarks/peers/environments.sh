#!/usr/bin/env bash
# Make an environment for each peer in FOLDER.
#
#   benchmarks/peers/environments.sh FOLDER [PEER...]
#
# PYTHON is the interpreter, python3.11 by default. What is there stays.
set -euo pipefail
folder=${1:?usage: environments.sh FOLDER [PEER...]}
shift
declare -A pins=([lazyslide]=lazyslide==0.13.0 [slide2vec]=slide2vec==7.1.4)
[ $# -gt 0 ] || set -- "${!pins[@]}"
for peer in "$@"; do
    [ -n "${pins[$peer]:-}" ] || { echo "no peer $peer: ${!pins[*]}" >&2; exit 2; }
    [ -x "$folder/$peer/bin/python" ] && continue
    "${PYTHON:-python3.11}" -m venv "$folder/$peer.new"
    "$folder/$peer.new/bin/pip" install --quiet "${pins[$peer]}"
    mv "$folder/$peer.new" "$folder/$peer"
    "${PYTHON:-python3.11}" -m venv --upgrade "$folder/$peer" # scripts name the folder that they are in
done
