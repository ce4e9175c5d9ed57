#!/bin/sh
# Tests and times this crate on the GPU of this machine: ./run.sh --help. Needs python3, and NVIDIA's driver and cuBLASLt.
exec python3 -B "$(dirname "$0")/runner" "$@"
