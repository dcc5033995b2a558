#!/usr/bin/env bash
# Make an environment for each peer in FOLDER.
#
#   benchmarks/peers/environments.sh FOLDER [PEER...]
#
# PYTHON is the interpreter, python3.11 by default. What is there stays.
set -euo pipefail
folder=${1:?usage: environments.sh FOLDER [PEER...]}
shift
checkout=$(cd "$(dirname "$0")/../.." && pwd)
peers=(lazyslide slide2vec trident arrays)
for peer in "${@:-${peers[@]}}"; do
    case $peer in
    lazyslide) wanted=(lazyslide==0.13.0) ;;
    slide2vec) wanted=(slide2vec==7.1.4) ;;
    # In no index: its repository as of 2026-11-30, which calls itself 0.3.0.
    trident) wanted=(git+https://github.com/mahmoodlab/TRIDENT@a91fa8490e0210ebbbe58452c3babe009e0ab7ca) ;;
    # Raced in histofast's own process, so they share its environment.
    arrays) wanted=(torchmil==1.0.2 pytorch-cka==1.1.3 repsim==0.1.5 "$checkout[train]" pytest pytest-benchmark) ;;
    *) echo "no peer $peer: ${peers[*]}" >&2 && exit 2 ;;
    esac
    [ -e "$folder/$peer/made" ] && continue
    "${PYTHON:-python3.11}" -m venv "$folder/$peer"
    "$folder/$peer/bin/pip" install --quiet "${wanted[@]}"
    touch "$folder/$peer/made"
done
