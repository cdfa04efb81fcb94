"""Device functions that all kernels share: rounding, activations, statistics of a tile.

The interpreter truncates where bfloat16 must round, multiplies its bit patterns in `tl.dot`, and
has no libdevice: other roads are taken there, under a constexpr, so that GPUs see none of them.
"""

# ruff: noqa: RET505, SIM300 (what follows an `if` on a constexpr is compiled unless it is in the `else`)

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
import triton
import triton.language as tl
from triton import knobs
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))
SQRT_HALF = tl.constexpr(0.7071067811865476)
TANH_SCALE = tl.constexpr(0.7978845608028654)  # sqrt(2 / pi)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def cast(x, DTYPE: tl.constexpr):
    """float32 to DTYPE, to nearest even."""
    if INTERPRETED and DTYPE == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        nan = (bits >> 16) | 0x40
        return tl.where(x == x, rounded, nan).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(DTYPE)


@triton.jit
def matrix(x):
    """An operand of `tl.dot`."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def exp(x):
    if INTERPRETED:
        return tl.exp(x)
    else:
        return libdevice.exp(x)


@triton.jit
def tanh(x):
    if INTERPRETED:
        return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0
    else:
        return libdevice.tanh(x)


@triton.jit
def gelu_polynomial(x):
    """x·erfc(-x/√2)/2 by Abramowitz & Stegun 7.1.26: absolute error of erfc below 1.5e-7.

    Written with erfc of |x|, so that the negative tail keeps its relative precision.
    """
    z = tl.abs(x) * SQRT_HALF
    t = 1.0 / (1.0 + 0.3275911 * z)
    p = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    tail = 0.5 * p * tl.exp2(-z * z * LOG2_E)
    return x * tl.where(x > 0, 1.0 - tail, tail)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr, EXACT: tl.constexpr):
    """act(x) in float32, in eager torch's order of operations where EXACT."""
    if ACTIVATION == "gelu":
        if EXACT:
            return x * 0.5 * (1.0 + tl.math.erf(x * SQRT_HALF))
        else:
            return gelu_polynomial(x)
    elif ACTIVATION == "gelu_tanh":
        return 0.5 * x * (1.0 + tanh((x + 0.044715 * (x * x * x)) * TANH_SCALE))
    elif ACTIVATION == "silu":
        return tl.div_rn(x, 1.0 + exp(-x))
    else:
        tl.static_assert(ACTIVATION == "relu", "an activation without a device function")
        return tl.where(x < 0, 0.0, x)


@triton.jit
def gate(value, x, ACTIVATION: tl.constexpr, EXACT: tl.constexpr, DTYPE: tl.constexpr):
    """H = value · act(x), in DTYPE; EXACT rounds act(x) first, as eager torch does."""
    activated = activate(x, ACTIVATION, EXACT)
    if EXACT:
        activated = cast(activated, DTYPE).to(tl.float32)
    return cast(value * activated, DTYPE)


@triton.jit
def nan_maximum(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def first_half(h):
    """The first half of the columns, without leaving the registers of a matrix product."""
    halves = tl.permute(tl.reshape(h, (h.shape[0], 2, h.shape[1] // 2)), (0, 2, 1))
    first, _ = tl.split(halves)
    return first


@triton.jit
def near_mean(h, count, AXIS: tl.constexpr):
    """A shift for m2: the mean over AXIS, of the first eighth alone where AXIS is 1.

    m of n rows miss the mean by at most sqrt(n/m - 1) standard deviations: three bits of m2.
    """
    if AXIS == 0:
        return tl.sum(h, 0) / count
    else:
        eighth = first_half(first_half(first_half(h)))
        return tl.sum(eighth, 1) / tl.minimum(count, eighth.shape[1])


@triton.jit
def tile_moments(h, valid, count, AXIS: tl.constexpr, MASKED: tl.constexpr):
    """Mean (float64), m2, max_abs and nonzero of a float32 tile over AXIS, the rows."""
    if MASKED:
        h = tl.where(valid, h, 0.0)
    shift = near_mean(h, count, AXIS)
    deviation = h - tl.expand_dims(shift, AXIS)
    if MASKED:
        deviation = tl.where(valid, deviation, 0.0)
    left = tl.sum(deviation, AXIS) / count
    m2 = tl.sum(deviation * deviation, AXIS) - left * left * count
    mean = shift.to(tl.float64) + left.to(tl.float64)
    if INTERPRETED:  # a custom reduction takes it seconds; magnitudes sort like their bits
        magnitude = h.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        max_abs = tl.max(magnitude, AXIS).to(tl.float32, bitcast=True)
    else:
        max_abs = tl.reduce(tl.abs(h), AXIS, nan_maximum)
    nonzero = tl.sum((h != 0.0).to(tl.int32), AXIS)
    return mean, m2, max_abs, nonzero


@triton.jit
def store_parts(p_mean, p_m2, p_max_abs, p_nonzero, offsets, inside, mean, m2, max_abs, nonzero):
    """Writes the statistics of one tile: [NEURONS] each."""
    tl.store(p_mean + offsets, mean, mask=inside)
    tl.store(p_m2 + offsets, m2, mask=inside)
    tl.store(p_max_abs + offsets, max_abs, mask=inside)
    tl.store(p_nonzero + offsets, nonzero, mask=inside)


@triton.jit
def chan(n_a, mean_a, m2_a, n_b, mean_b, m2_b):
    """Joins two moments, float64 (Chan, Golub & LeVeque 1979); an empty side changes nothing."""
    total = n_a + n_b
    share = n_b / tl.maximum(total, 1.0)
    delta = tl.where(n_a * n_b > 0, mean_b - mean_a, 0.0)
    mean = tl.where(n_a > 0, mean_a, mean_b) + delta * share
    return total, mean, m2_a + m2_b + delta * delta * (n_a * share)
