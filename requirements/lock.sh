#!/bin/sh
# Make the lock files anew: every package that `make` installs, with its version and its hashes, for Python 3.10 to 3.13
# on every processor that has wheels. Run by `make lock`; what to lock stands in pyproject.toml.
set -eu
cd "$(dirname "$0")"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/pip" install --quiet uv

# No index in the locks: whoever installs from them uses the registry, or the mirror, that their pip is set up for.
compile() {
    lock=$1
    shift
    echo "locking $lock"
    "$folder/bin/uv" pip compile --quiet --universal --python-version 3.10 --generate-hashes \
        --no-emit-index-url --custom-compile-command 'make lock' --constraint constraints.in \
        --upgrade --output-file "$lock" "$@" ../pyproject.toml
}

compile demo.lock --extra litert --extra operator build.in
compile fleet.lock --constraint demo.lock --extra fleet build.in
# The tests share the demo's environment and run the fleet's tools, so whatever is in several has one version.
compile test.lock --constraint demo.lock --constraint fleet.lock --extra litert --extra operator --extra fleet --extra lint --extra metrics --extra browser --extra fuzz --extra test build.in
compile tflite.lock --extra tflite --extra images --extra test build.in
compile models.lock --extra models --extra litert --extra test build.in
# What boards get is what is tested here.
compile board-litert.lock --constraint demo.lock --extra litert board.in
compile board-tflite.lock --constraint tflite.lock --extra tflite board.in
