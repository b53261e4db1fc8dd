"""The simulation of bench_var.c by numpy on one thread, in place where numpy can: prints the versions, then
`name  value unit`. Exit 3: numpy is not installed.

Run by /usr/bin/python3, whose numpy is Debian's. OpenBLAS of Debian 12 takes processors that came later for very old
ones, so that what such a processor has is asked for by name.
"""
import os
import statistics
import sys
import time

ROUNDS, POSITIONS, SIMULATIONS = 15, 50, 100000


def kernels():
    with open("/proc/cpuinfo") as f:
        flags = next((line.split() for line in f if line.startswith("flags")), [])
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= set(flags):
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= set(flags) else ""


os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ.setdefault("OPENBLAS_CORETYPE", kernels())
try:
    import numpy as np
except ImportError:
    sys.exit(3)


def figures(random, covariance, value):
    factor = np.linalg.cholesky(covariance)
    prices = random.standard_normal((SIMULATIONS, POSITIONS)) @ factor.T
    np.exp(prices, out=prices)
    profit = prices @ value
    profit -= value.sum()
    quantiles = np.quantile(profit, [0.05, 0.01])
    return [(q, profit[profit <= q].mean()) for q in quantiles]


def main():
    place = np.arange(POSITIONS)
    volatility = 0.01 + 0.0004 * place
    covariance = np.outer(volatility, volatility) * 0.9 ** abs(place[:, None] - place)
    value = np.where(place % 3 == 2, -1e5, 1e5)
    random = np.random.default_rng(1)
    took = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        figures(random, covariance, value)
        took.append((time.perf_counter() - start) * 1e3)
    with open("/proc/self/maps") as f:
        blas = "OpenBLAS" if "openblas" in f.read() else "reference BLAS"
    print(f"# numpy {np.__version__}, {blas}")
    print(f"{'Monte Carlo, 100,000 x 50, normal':44} {statistics.median(took):9.4f} ms")


if __name__ == "__main__":
    main()
