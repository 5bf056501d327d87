"""Triton device functions: counter -> 32 random bits -> standard normals, four elements per call.

    block q of four:  (w0, w1, w2, w3) = Philox4x32-10(counter = (q, step, chain, stream), key = seed)
    u = (top 23 bits of w + 1/2) 2^-23
    (z0, z1) = sqrt(-2 log u0) (cos, sin)(2 pi u1),   (z2, z3) = sqrt(-2 log u2) (cos, sin)(2 pi u3)

Element e is lane e % 4 of block e // 4. The four lanes are interleaved in registers, so loads and stores of the
buffer stay contiguous. Only the step counter is read from memory. The torch twin is `reference.normals`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def _unit(bits):
    """32 bits -> float32 in (0, 1); every step is exact."""
    return ((bits >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def _cos_sin(angle):
    """Cosine and sine of angles in (0, 2 pi), float32, to 1e-7.

    `tl.cos` would also reduce huge arguments, which costs a stack and registers even where there are none.
    """
    quarter = (angle * 0.6366197723675814 + 0.5).to(tl.int32)  # the nearest multiple of pi / 2
    turns = quarter.to(tl.float32)
    x = (angle - turns * 1.5703125) - turns * 4.838267948966e-4  # pi / 2 in two parts; the first product is exact
    square = x * x
    # minimax polynomials on [-pi/4, pi/4], from Cephes (sinf.c)
    tail = -1.6666654611e-1 + square * (8.3321608736e-3 + square * -1.9515295891e-4)
    sine = x + x * square * tail
    tail = 4.166664568298827e-2 + square * (-1.388731625493765e-3 + square * 2.443315711809948e-5)
    cosine = 1.0 - 0.5 * square + square * square * tail
    odd = (quarter & 1) != 0
    real, imaginary = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    real = tl.where(((quarter + 1) & 2) != 0, -real, real)
    return real, tl.where((quarter & 2) != 0, -imaginary, imaginary)


@triton.jit
def _pair(bits0, bits1):
    """Box-Muller: two words -> two standard normals, float32."""
    radius = tl.sqrt(-2.0 * tl.log(_unit(bits0)))
    cosine, sine = _cos_sin(_unit(bits1) * 6.283185307179586)
    return radius * cosine, radius * sine


@triton.jit
def words(quad, chain, step_ptr, key0, key1, stream):
    """Four uint32 `(Q,)`: the random words of blocks `quad`, int32 `(Q,)`.

    step_ptr: one int64, read here so that a replayed graph uses its current value. key0, key1, stream: int32
    scalars whose bits are the words.
    """
    word = tl.zeros_like(quad).to(tl.uint32)
    step = word + tl.load(step_ptr).to(tl.uint32)
    chain_word = word + chain.to(tl.uint32)
    stream_word = word + stream.to(tl.uint32, bitcast=True)
    k0 = word + key0.to(tl.uint32, bitcast=True)
    k1 = word + key1.to(tl.uint32, bitcast=True)
    return tl.philox_impl(quad.to(tl.uint32), step, chain_word, stream_word, k0, k1)


@triton.jit
def _interleaved(lane0, lane1, lane2, lane3, BLOCK: tl.constexpr):
    """`(Q,)` x 4 -> (Q, 2, 2) with [q, i, j] = lane[2 i + j] -> `(BLOCK,)`, element e in lane e % 4."""
    return tl.reshape(tl.join(tl.join(lane0, lane2), tl.join(lane1, lane3)), (BLOCK,))


@triton.jit
def normals(quad, chain, step_ptr, key0, key1, stream, BLOCK: tl.constexpr):
    """Standard normals, float32 `(BLOCK,)`, of the elements 4*quad .. 4*quad + 3; arguments as for `words`."""
    w0, w1, w2, w3 = words(quad, chain, step_ptr, key0, key1, stream)
    z0, z1 = _pair(w0, w1)
    z2, z3 = _pair(w2, w3)
    return _interleaved(z0, z1, z2, z3, BLOCK)


@triton.jit
def uniforms(quad, chain, step_ptr, key0, key1, stream, BLOCK: tl.constexpr):
    """Uniforms in (0, 1), as `normals`."""
    w0, w1, w2, w3 = words(quad, chain, step_ptr, key0, key1, stream)
    return _interleaved(_unit(w0), _unit(w1), _unit(w2), _unit(w3), BLOCK)


@triton.jit
def bits(quad, chain, step_ptr, key0, key1, stream, BLOCK: tl.constexpr):
    """The words themselves, int64, as `normals`."""
    w0, w1, w2, w3 = words(quad, chain, step_ptr, key0, key1, stream)
    return _interleaved(w0, w1, w2, w3, BLOCK).to(tl.int64)
