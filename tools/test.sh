#!/usr/bin/env bash
# Makes an environment and runs all tests. VENV names the environment (default .venv), PYTHON the
# interpreter (3.11 or newer), JOBS the number of test processes; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${VENV:-.venv}"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
# One thread for each test process: the tests run on all cores, and timings are not asserted.
# (nproc itself goes by OMP_NUM_THREADS.)
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet -e '.[dev,torch]'
"$venv/bin/python" -m pip install --quiet -r tools/requirements.txt
"$venv/bin/python" -m pip install --quiet --no-deps -r tools/requirements-no-deps.txt
exec "$venv/bin/python" -m pytest -n "${JOBS:-$(env -u OMP_NUM_THREADS nproc)}" "$@"
