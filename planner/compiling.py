"""Compiled kernels: numba with a cache that also works where the package's folder is read-only.

A kernel's machine code is cached beside its module, else in the user's cache folder, else nowhere (numba itself would
refuse to compile then). The cache goes stale with *any* file of this package, since kernels call each other across
modules and numba only watches the file a kernel is written in.

A kernel takes arrays out of a NamedTuple before it loops: each look-up counts a reference to the array, atomically.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numba import config, njit
from numba.core.caching import CacheImpl, FunctionCache, InTreeCacheLocator, UserProvidedCacheLocator
from numba.core.caching import UserWideCacheLocator as UserWide

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

PACKAGE = Path(__file__).parent


def source_stamp(folder: Path = PACKAGE) -> tuple[float, int]:
    """Newest change and total size of the package's and the folder's sources: what a cached kernel is valid for."""
    stats = [source.stat() for place in {PACKAGE, folder} for source in place.glob("*.py")]
    return max(s.st_mtime for s in stats), sum(s.st_size for s in stats)


class _PackageStamp:
    _py_file: str  # the locators' own: the kernel's file

    def get_source_stamp(self) -> tuple[float, int]:
        return source_stamp(Path(self._py_file).parent)


class _Provided(_PackageStamp, UserProvidedCacheLocator):
    """NUMBA_CACHE_DIR, when set."""


class _InTree(_PackageStamp, InTreeCacheLocator):
    """__pycache__ beside the module."""


class _UserWide(_PackageStamp, UserWide):
    """The user's cache folder."""


def _with_package_stamp(impl: type[CacheImpl]) -> type[CacheImpl]:
    return type(impl.__name__, (impl,), {"_locator_classes": [_Provided, _InTree, _UserWide]})


class _PackageCache(FunctionCache):
    _impl_class: Any = _with_package_stamp(FunctionCache._impl_class)


def compiled(function: Kernel) -> Kernel:
    """Compile `function` without Python objects; cached on disk where some folder is writable."""
    kernel: Any = njit(nogil=True, error_model="numpy")(function)
    new_cache: Any = _PackageCache
    with suppress(RuntimeError, OSError):  # no writable folder: compiled once per process
        kernel._cache = new_cache(function)
    return kernel  # type: ignore[no-any-return]


def readable(rows: np.dtype[np.void]) -> np.dtype[np.void]:
    """The type of rows whose fields a kernel reads as attributes.

    A compiled kernel can do so with any; where numba's compiler is switched off (`NUMBA_DISABLE_JIT=1`), numpy needs to
    be told.
    """
    return np.dtype((np.record, rows)) if config.DISABLE_JIT else rows  # type: ignore[attr-defined]
