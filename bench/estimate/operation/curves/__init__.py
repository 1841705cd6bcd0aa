"""Curves: how long single operations take on one device, as a function of their size, fitted to measurements.

Each curve is a law of physics with few coefficients; the two with many measurements, matrix products and
memory-bound passes, add a learned residual, which counts near what was measured and fades to nothing away from it.
All have the same face:

    curve = curves.GemmCurve.fit([(curves.Gemm(m=4096, n=4096, k=4096), 1.9e-4), ...], num_units=132)
    seconds, sigma = curve.seconds(curves.Gemm(m=2048, n=8192, k=8192))
    curve.goodness.loo_median        # relative error of a point predicted from all others
    curve.goodness.factor(sigma, 0.9)
    curves.GemmCurve.from_dict(curve.to_dict())   # plain JSON values

`sigma` is the standard deviation of log(time) that the curve gives itself; `goodness.factor` turns it into bounds,
with the quantiles of the errors that the curve made on points left out.
"""

from bench.estimate.operation.curves.attention import Attention, AttentionCurve
from bench.estimate.operation.curves.bandwidth import BandwidthCurve, Pass
from bench.estimate.operation.curves.collective import CollectiveTable
from bench.estimate.operation.curves.gemm import Gemm, GemmCurve
from bench.estimate.operation.curves.goodness import Goodness
from bench.estimate.operation.curves.launch import LaunchCost

__all__ = [
    "Attention",
    "AttentionCurve",
    "BandwidthCurve",
    "CollectiveTable",
    "Gemm",
    "GemmCurve",
    "Goodness",
    "LaunchCost",
    "Pass",
]
