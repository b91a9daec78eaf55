"""Starts the CUDA driver while `import torch` is still running; called first by command lines that will use the GPU.

Imports only the standard library. Creating the context takes about 0.4 s in which Python waits; importing torch
takes seconds in which the driver waits. torch then uses the same (primary) context.
"""

from __future__ import annotations

import ctypes
import functools
import threading


@functools.cache
def start_cuda() -> threading.Thread:
    """Start in the background, once. Does nothing if there is no driver. The thread need not be joined."""
    thread = threading.Thread(target=_retain_primary_context, name="cuda-start", daemon=True)
    thread.start()
    return thread


def _retain_primary_context() -> None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), 0) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
