"""The random numbers of `semisam-node`, so that a training in PyTorch can see the very same crops and noise.

Every draw comes from a ChaCha8 generator whose key is the SHA-256 of a seed, a purpose and numbers
(node/src/train.rs). How numbers, orders and starts are made of its words is that of the crates rand 0.9 and rand_chacha
0.9.
"""

import hashlib
import struct

import numpy

CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
QUARTERS = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
QUARTERS += [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
DOUBLE_ROUNDS = 4
WORD = 1 << 32


def named(seed, purpose, *numbers):
    """The generator of the draws for `purpose`."""
    text = b"semisam/draws/1\0" + struct.pack("<Q", seed) + purpose.encode()
    text += b"".join(b"\0" + struct.pack("<Q", number) for number in numbers)
    return Draws(hashlib.sha256(text).digest())


def seeded(seed):
    """The generator of the first weights: a key that PCG32 stretches a number to."""
    key, state = b"", seed
    for _ in range(8):
        state = (state * 6364136223846793005 + 11634580027462260723) % (1 << 64)
        shifted, turn = ((state >> 18) ^ state) >> 27 & (WORD - 1), state >> 59
        key += struct.pack("<I", (shifted >> turn | shifted << (32 - turn)) & (WORD - 1))
    return Draws(key)


class Draws:
    """Words of one generator, in their order."""

    def __init__(self, key):
        self.key = struct.unpack("<8I", key)
        self.block = 0
        self.left = numpy.empty(0, "u4")

    def words(self, count):
        """The next `count` words of 32 bits."""
        if count > len(self.left):
            blocks = -(-(count - len(self.left)) // 16)
            self.left = numpy.concatenate([self.left, self.keystream(blocks)])
        words, self.left = self.left[:count], self.left[count:]
        return words

    def keystream(self, blocks):
        """The next blocks of 16 words."""
        counter = numpy.arange(self.block, self.block + blocks, dtype="u8")
        self.block += blocks
        start = numpy.zeros((16, blocks), "u4")
        start[:4] = numpy.array(CONSTANTS, "u4")[:, None]
        start[4:12] = numpy.array(self.key, "u4")[:, None]
        start[12], start[13] = counter.astype("u4"), (counter >> 32).astype("u4")
        state = start.copy()
        for _ in range(DOUBLE_ROUNDS):
            for a, b, c, d in QUARTERS:
                for target, other, mixed, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                    state[target] += state[other]
                    state[mixed] ^= state[target]
                    state[mixed] = state[mixed] << turn | state[mixed] >> (32 - turn)
        return (state + start).T.reshape(-1)

    def doubles(self, count):
        """The next `count` numbers of [0, 1), each of two words."""
        words = self.words(2 * count).astype("u8")
        return ((words[1::2] << 32 | words[::2]) >> 11) * 2.0**-53

    def chance(self, share):
        """Whether something happens that happens in a share of all cases."""
        low, high = (int(word) for word in self.words(2))
        return high * WORD + low < int(share * 2.0**64)

    def normals(self, count):
        """The next `count` draws from N(0, 1), single precision (Box and Muller)."""
        pairs = self.doubles(2 * count)
        return (numpy.sqrt(-2.0 * numpy.log(1.0 - pairs[::2])) * numpy.cos(2.0 * numpy.pi * pairs[1::2])).astype("f4")

    def below(self, bound):
        """A whole number below `bound` (Canon's method)."""
        high, low = divmod(int(self.words(1)[0]) * bound, WORD)
        if low > WORD - bound:
            high += low + (int(self.words(1)[0]) * bound >> 32) >= WORD
        return high

    def order(self, count):
        """The numbers below `count`, shuffled; one draw decides several places."""
        order, chunk, left = list(range(count)), 0, 1
        for place in range(count):
            among = place + 1
            if left == 0:
                bound, left = among, 1
                while bound * (among + left) < WORD:
                    bound *= among + left
                    left += 1
                chunk = self.below(bound)
            left -= 1
            chunk, chosen = (chunk, chunk) if left == 0 else divmod(chunk, among)
            order[place], order[chosen] = order[chosen], order[place]
        return order

    def uniform(self, bound, count):
        """Single-precision numbers of [-bound, bound)."""
        low, scale = numpy.float32(-bound), numpy.float32(bound) - numpy.float32(-bound)
        one_to_two = (self.words(count) >> 9 | 127 << 23).view("f4")
        return (one_to_two - numpy.float32(1)) * scale + low
