#!/usr/bin/env bash
# Draws docs/restore.svg: scripts/demo.sh --json --rounds 5 | scripts/picture.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
run_typescript picture
