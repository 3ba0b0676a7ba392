"""Encrypted prediction, broken on purpose."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

INFERENCE = "primia/inference/"
OPS = INFERENCE + "ops/"
SUITE = (
    "tests/inference/ops",
    "tests/inference/test_bits.py",
    "tests/inference/test_prg.py",
    "tests/inference/test_parties.py",
    "tests/inference/test_transcripts.py",
)


def _mutation(name: str, file: str, before: str, after: str) -> Mutation:
    return Mutation(name, file, before, after, SUITE)


INFERENCE_MUTATIONS = (
    _mutation(
        "all streams of a seed are one",
        INFERENCE + "prg.py",
        '_PREFIX + label.encode("ascii")',
        "_PREFIX",
    ),
    _mutation("a label serves twice", INFERENCE + "prg.py", "if label in self._used:", "if False:"),
    _mutation(
        "truncation forgets the wrap", OPS + "opening.py", "        term *= self.wraps\n", ""
    ),
    _mutation(
        "negative values are opened without the offset",
        OPS + "opening.py",
        "            mine += OFFSET\n",
        "            pass\n",
    ),
    _mutation(
        "the dealer's own noise comes from a seed that all know",
        INFERENCE + "dealing.py",
        "Prg(self.seed).draw",
        "Prg(bytes(32)).draw",
    ),
    _mutation(
        "layers of one value take masks of their own at the dealer only",
        INFERENCE + "dealing.py",
        "        if label not in self.inputs:\n",
        "        if True:\n",
    ),
    _mutation(
        "a message of another length is taken",
        INFERENCE + "messages.py",
        "    if len(received) != due:\n",
        "    if len(received) < due:\n",
    ),
    _mutation(
        "corrections left over are not noticed",
        INFERENCE + "correlations.py",
        "if self._rest or any(len(chunk) for chunk in self._chunks):",
        "if False:",
    ),
    _mutation(
        "padding wins a maximum",
        OPS + "pool.py",
        "np.uint64(lowest % (1 << 64))",
        "np.uint64(0)",
    ),
    _mutation(
        "the class ignores the last bits of a race",
        OPS + "answer.py",
        "return Window(0, -(-bit_length(2 * bound, scale) // 4))",
        "return Window(4, -(-bit_length(2 * bound, scale) // 4) - 1)",
    ),
    _mutation(
        "a loser counts as a winner",
        OPS + "answer.py",
        "wins[b].append(bit ^ constant_one(party))",
        "wins[b].append(bit)",
    ),
    _mutation(
        "a norm's weight forgets its mask",
        OPS + "norm.py",
        'dealer.give(f"{label}/masked/high", b * high[:, None])',
        'dealer.give(f"{label}/masked/high", b)',
    ),
    _mutation(
        "the sum of squares may leave the ring",
        OPS + "norm_numbers.py",
        "run = 1 << max(0, MAX_BITS - 1 - squares - 2 * f)",
        "run = 1 << 40",
    ),
    _mutation(
        "a window is one bit short for its bound",
        OPS + "compare.py",
        "return max(1, log2_ceil(bound * 1.001) + scale)",
        "return max(1, log2_ceil(bound * 1.001) + scale - 1)",
    ),
    _mutation(
        "the wide profile forgets a product of the masks",
        OPS + "wide.py",
        "    with_gamma[0] += sc\n",
        "",
    ),
)
