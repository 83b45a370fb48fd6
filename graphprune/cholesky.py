"""Cholesky factors while other threads work.

`scipy.linalg` keeps Python's lock for as long as LAPACK computes, so that onnxruntime in another thread
has to wait between two runs. The same routines of the same library are called here by the addresses
that scipy gives to compiled code (`scipy.linalg.cython_lapack`); ctypes lets go of the lock.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_UPLO = b"L"
"""The half that LAPACK reads, counting by columns: of numpy's rows it is the upper one."""

_BLOCK = 64
"""Rows that are mirrored at a time."""


class Cholesky:
    """The factor of a symmetric positive definite matrix.

    Args:
        matrix: `(n, n)` of float64 and contiguous. It is used up: the factor takes its place.

    Raises:
        numpy.linalg.LinAlgError: It is not positive definite, by rounding or altogether.
    """

    def __init__(self, matrix: Array) -> None:
        assert matrix.dtype == np.float64
        assert matrix.flags.c_contiguous
        assert matrix.ndim == 2
        assert matrix.shape[0] == matrix.shape[1]
        self._factor = matrix
        _call("dpotrf", _UPLO, len(matrix), matrix, len(matrix))

    def solve(self, right: Array) -> Array:
        """`matrix^-1 right`, for `right` of `(n, k)`."""
        columns = np.array(right.T, np.float64, order="C")  # by columns, a copy
        n, count = len(self._factor), len(columns)
        assert columns.shape[1] == n
        _call("dpotrs", _UPLO, n, count, self._factor, n, columns, n)
        return columns.T

    def inverse(self) -> Array:
        """`matrix^-1`, in place of the factor, which is used up."""
        found = self._factor
        _call("dpotri", _UPLO, len(found), found, len(found))
        for start in range(0, len(found), _BLOCK):
            end = start + _BLOCK
            found[end:, start:end] = found[start:end, end:].T
            corner = np.triu(found[start:end, start:end])
            found[start:end, start:end] = corner + np.triu(corner, 1).T
        return found


def _call(routine: str, *arguments: bytes | int | Array) -> None:
    """Call LAPACK; all arguments go by address, the last one of all says how it went."""
    info = ctypes.c_int(0)
    passed: list[Any] = []
    for given in arguments:
        if isinstance(given, np.ndarray):
            passed.append(given.ctypes.data_as(ctypes.c_void_p))
        elif isinstance(given, int):
            passed.append(ctypes.byref(ctypes.c_int(given)))
        else:
            passed.append(ctypes.c_char_p(given))
    _routine(routine, len(passed) + 1)(*passed, ctypes.byref(info))
    if info.value:
        raise np.linalg.LinAlgError(f"{routine}: {info.value}")


@cache
def _routine(name: str, count: int) -> Any:
    from scipy.linalg import cython_lapack

    capsule = cython_lapack.__pyx_capi__[name]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = pointer_of(capsule, name_of(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count)(address)
