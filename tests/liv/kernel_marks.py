"""Tests of implementations: of which there are, and where the native one cannot be had."""

from __future__ import annotations

import pytest

from star.liv.kernels import Implementation, native

NEEDS_COMPILER = pytest.mark.skipif(native.compiler() is None, reason="there is no C++ compiler")
implementations = pytest.mark.parametrize(
    "implementation", [Implementation.PORTABLE, pytest.param(Implementation.NATIVE, marks=NEEDS_COMPILER)]
)
