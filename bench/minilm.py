"""Sentence embeddings: what serving texts of mixed lengths costs, and what grouping them is worth.

    python bench/minilm.py [--texts 512] [--rounds 5] [--quick]

64 one-text queries wait at any time, on all-MiniLM-L6-v2 with one thread. Beside it, in turns, the
bare network runs the same texts offline, sorted by length into the same buckets and padded
beforehand, at the batch size that suits it best. See bench/README.md.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

import clipper
from clipper_adapters.zoo import minilm
from interleaved import HEADING, Figure, Way, interleave, machine, ratios
from subjects import OUTSTANDING, every_row_counted, noted

BUCKETS = (16, 32, 64, 128, 256)
SIZES = (4, 8, 16, 32, 64)
#: Common words of every length, nearly all of them one token each.
_WORDS = """
a about after again air all also an and animal any are around as ask at away back be because been
before below between big book boy build but by call came can change child city close cold come could
country cross cut day deep did do does door down draw earth eat end enough even every eye face
family far father feet few find fire first fish five follow food for form found four from garden
gave get girl give go good great green ground group grow had half hand hard has have he head hear
help her here high him his home horse hot house how hundred idea if in into island it just keep kind
king know land large last late learn leave left letter life light like line list little live long
look low made make man many mark may me mean men might mile money moon more morning most mother
mountain move much music must my name near need never new next night no north not notice now number
of off often old on once one only open or order other our out over own page paper part people
picture piece place plain plan plant play point port power problem pull question quick rain read
ready real red rest right river road rock room round rule run said same saw say school sea second
see seem self sentence serve set seven she ship short should show side simple since sing small so
some song soon sound south spell stand star start state step still stop story street strong study
such sun sure table take talk teach tell ten than that the their them then there these they thing
think this those though thought three through time to together told too took top toward town travel
tree true try turn two under unit until up upon us use very voice vowel walk want war warm was watch
water way we week well went were west what wheel when where which while white who whole why wide
will wind with wood word work world would write year yes yet you young your
"""


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Return sentences of 5 to 120 words, most of them short."""
    rng = np.random.default_rng(seed)
    words = _WORDS.split()
    lengths = np.minimum(5 + rng.exponential(18, count).astype(int), 120)
    return [" ".join(rng.choice(words, length)).capitalize() + "." for length in lengths]


def bucket_of(length: int) -> int:
    return next(bucket for bucket in BUCKETS if length <= bucket)


# ---- the bare network ----------------------------------------------------------------------------


class Bare:
    """The network without an engine: sorted, padded, batched offline."""

    def __init__(self, adapter: minilm.MiniLM, texts: Sequence[str]) -> None:
        self._encoder = minilm.load_encoder(minilm.minilm_folder())
        self._adapter = adapter
        self._texts = texts

    def batches(self, rows: clipper.Ragged, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return padded tokens and masks, of at most `size` rows of one bucket each."""
        made = []
        for bucket in BUCKETS:
            members = [row for row in rows if bucket_of(len(row)) == bucket]
            for start in range(0, len(members), size):
                chosen = clipper.Ragged.from_rows(members[start : start + size])
                padded, mask = chosen.padded(bucket)
                made.append((torch.from_numpy(padded), torch.from_numpy(mask.astype(np.int64))))
        return made

    def from_tokens(self, size: int) -> Way:
        """All texts, padded beforehand."""
        batches = self.batches(self._adapter.tokenise(self._texts), size)

        def run() -> int:
            with torch.inference_mode():
                for tokens, mask in batches:
                    self._encoder(tokens, mask)
            return len(self._texts)

        return run

    def from_text(self, size: int) -> Way:
        """All texts, tokenised at once, then sorted and padded."""

        def run() -> int:
            with torch.inference_mode():
                for tokens, mask in self.batches(self._adapter.tokenise(self._texts), size):
                    self._encoder(tokens, mask)
            return len(self._texts)

        return run

    def best_size(self, rounds: int) -> int:
        """Return the batch size at which it embeds the most texts in a second."""
        seconds = interleave({str(size): self.from_tokens(size) for size in SIZES}, rounds)
        return min(SIZES, key=lambda size: float(np.median(seconds[str(size)])))


# ---- served --------------------------------------------------------------------------------------


@contextmanager
def outstanding(model: clipper.Model, rows: Sequence[Any]) -> Iterator[Way]:
    """Ask for all rows one by one, such that 64 queries wait until none is left to ask."""
    ask = model.predict_async

    async def work(left: Iterator[Any]) -> None:
        for row in left:
            await ask(row)

    async def all_rows() -> None:
        left = iter(rows)
        await asyncio.gather(*[work(left) for _ in range(OUTSTANDING)])

    loop = asyncio.new_event_loop()

    def run() -> int:
        loop.run_until_complete(all_rows())
        return len(rows)

    try:
        yield run
    finally:
        loop.close()


def mean_batch(model: clipper.Model) -> float:
    """Return how many rows a batch had in the mean."""
    replicas = [
        replica
        for version in model.describe()["versions"].values()
        for replica in version["replicas"]
    ]
    return float(sum(r["rows"] for r in replicas) / max(sum(r["batches"] for r in replicas), 1))


def measure(texts: list[str], rounds: int) -> list[Figure]:
    """Measure everything in turns; return the lines of the table."""
    torch.set_num_threads(1)
    from_tokens = minilm.MiniLM(buckets=BUCKETS, threads=1)
    from_text = minilm.MiniLM(input="text", buckets=BUCKETS, threads=1)
    tokens = list(from_tokens.tokenise(texts))
    bare = Bare(from_tokens, texts)
    size = bare.best_size(min(rounds, 3))
    describe_texts(tokens, size)
    with clipper.Engine() as engine, ExitStack() as stack:
        deploy = engine.deploy
        served: dict[str, tuple[clipper.Model, Sequence[Any]]] = {
            "grouped": (deploy("grouped", from_tokens, slo=10.0), tokens),
            "mixed": (deploy("mixed", from_tokens, slo=10.0, length_buckets=()), tokens),
            "text": (deploy("text", from_text, slo=10.0), texts),
        }
        ways: dict[str, Way] = {"bare": bare.from_tokens(size), "bare text": bare.from_text(size)}
        for name, (model, rows) in served.items():
            way = stack.enter_context(outstanding(model, rows))
            note: Callable[[int], None] = stack.enter_context(every_row_counted(model))
            ways[name] = noted(way, note)
        seconds = interleave(ways, rounds)
        for name, (model, _) in served.items():
            print(f"mean batch, {name}: {mean_batch(model):.1f} rows")
    compared = {
        "tokens, of the bare network": ("bare", "grouped", 0.9),
        "text, of the bare network and tokeniser": ("bare text", "text", 0.9),
        "tokens not grouped, of the bare network": ("bare", "mixed", 0.0),
        "grouped, of not grouped": ("mixed", "grouped", 1.0),
    }
    rates = [1 / taken for taken in seconds["bare"]]
    return [Figure("bare network, tokens", rates, 0, True, "row/s")] + [
        Figure(name, ratios(seconds[baseline], seconds[ours]), wanted, True)
        for name, (baseline, ours, wanted) in compared.items()
    ]


def describe_texts(tokens: Sequence[Any], size: int) -> None:
    lengths = [len(row) for row in tokens]
    buckets = [bucket_of(length) for length in lengths]
    shares = ", ".join(f"{buckets.count(bucket)} of {bucket}" for bucket in BUCKETS)
    print(f"{len(tokens)} texts, {min(lengths)} to {max(lengths)} tokens, padded to: {shares}")
    print(
        f"{1 - sum(lengths) / sum(buckets):.0%} of what the bare network sees is padding; it runs "
        f"{size} rows at a time\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=512, help="texts asked for in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    options = parser.parse_args()
    if options.quick:
        options.texts, options.rounds = 32, 1
    print(machine())
    figures = measure(make_texts(options.texts), options.rounds)
    print(f"\n{HEADING}")
    for figure in figures:
        print(figure.line())
    missed = [figure.name for figure in figures if not figure.is_met]
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
