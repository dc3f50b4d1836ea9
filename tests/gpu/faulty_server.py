"""`lanewise` as it is, but a line on its standard input loses the device to the process.

What CUDA says of it is then written to standard output.
"""

from __future__ import annotations

import sys
import threading

PTX = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry fault() { trap; }
\0"""
"""A kernel that ends the CUDA context it runs in."""


def lose_device() -> str:
    from cuda.bindings import driver, runtime

    def check(result):
        assert int(result[0]) == 0, result[0]
        return result[-1]

    check(runtime.cudaFree(0))  # makes the context of the process current for this thread
    kernel = check(driver.cuModuleGetFunction(check(driver.cuModuleLoadData(PTX)), b"fault"))
    check(driver.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0))
    (outcome,) = runtime.cudaDeviceSynchronize()
    return outcome.name


def wait_for_the_line() -> None:
    sys.stdin.readline()
    try:
        outcome = lose_device()
    except Exception as error:
        outcome = f"nothing is lost: {error!r}"
    print(outcome, flush=True)


if __name__ == "__main__":
    threading.Thread(target=wait_for_the_line, daemon=True).start()

    from lanewise.cli.main import main

    main()
