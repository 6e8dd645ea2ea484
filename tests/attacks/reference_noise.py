"""The attacks' random numbers, number by number in Python's integers, and quantiles without a table."""

import hashlib
from fractions import Fraction
from statistics import NormalDist

MASK = 0xFFFFFFFFFFFFFFFF
GOLDEN = 0x9E3779B97F4A7C15


def splitmix(z: int) -> int:
    """Finaliser of splitmix64."""
    z &= MASK
    z ^= z >> 30
    z = (z * 0xBF58476D1CE4E5B9) & MASK
    z ^= z >> 27
    z = (z * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def digest(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def word(key: int, index: int) -> int:
    """32 random bits of an element under a draw's key: triple32 with the upper half of the key after its first
    round."""
    x = (index + (key & 0xFFFFFFFF)) & 0xFFFFFFFF
    x ^= x >> 17
    x = (x * 0xED5AD4BB) & 0xFFFFFFFF
    x = (x + (key >> 32)) & 0xFFFFFFFF
    x ^= x >> 11
    x = (x * 0xAC4C1B51) & 0xFFFFFFFF
    x ^= x >> 15
    x = (x * 0x31848BAB) & 0xFFFFFFFF
    return x ^ (x >> 14)


def draw_key(seed: int, image: int, draw: int) -> int:
    """Key of the draw with this number (from 0) of an image, which is a row or the digest of a sample's id."""
    return splitmix(splitmix(image + splitmix(seed)) + draw * GOLDEN)


def uniform(key: int, index: int) -> Fraction:
    return Fraction(word(key, index) >> 8, 2**24)


def uniform_double(key: int, further: int, index: int) -> Fraction:
    return Fraction((word(key, index) >> 5 << 26) + (word(further, index) >> 6), 2**53)


def scalar(seed: int, draw: int) -> Fraction:
    """The scalar with this number, from 1."""
    return Fraction(splitmix(splitmix(seed) + draw * GOLDEN) >> 11, 2**53)


def normal(word: int) -> float:
    """The quantile itself; the library interpolates it in a table."""
    tail = Fraction(2 * (word >> 9) + 1, 2**25)
    return NormalDist().inv_cdf(float(tail)) * (-1 if word >> 8 & 1 else 1)
