"""Which tokens a corpus needs, and a tokenizer.json of these tokens only.

A text whose tokens are all kept is cut into the same tokens by the trimmed tokenizer:

- WordPiece takes the longest token that fits; of fewer tokens that one is still the longest.
- BPE applies the first merge of its list that fits, again and again. The merges that make a kept
  token, and the parts they make it from, are kept; taking others away changes no step.
- Unigram takes the segmentation of the highest score; of fewer segmentations that one is still the
  highest. The token of the lowest score is kept, since unknown characters are scored by it.
- Characters of kept tokens are kept as tokens, as are all bytes, so that other texts are spelled
  rather than unknown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.errors import UsageError

Array = np.ndarray[Any, Any]

_BATCH = 512
_KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")


@dataclass(frozen=True, eq=False)
class Kept:
    """The tokens that stay.

    Attributes:
        ids: Their old ids, increasing; the i-th is i afterwards.
        special: How many are special or added.
        corpus: How many more occur in the corpus.
        parts: How many more are parts, bytes or characters of these.
        unknown: Share of the corpus' tokens that are unknown to the tokenizer.
        lines: Texts that were read.
        sample: Ids of the first texts, for checks.
    """

    ids: Array
    special: int
    corpus: int
    parts: int
    unknown: float
    lines: int
    sample: tuple[tuple[int, ...], ...]


class TokenizerFile:
    """A tokenizer.json: the library's tokenizer, and the file as plain data."""

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise UsageError(
                "trimming a vocabulary needs the tokenizers library: pip install 'graphprune[text]'"
            ) from error
        try:
            text = path.read_text(encoding="utf-8")
            self.data: dict[str, Any] = json.loads(text)
            self.tokenizer = Tokenizer.from_str(text)
        except OSError as error:
            raise UsageError(f"cannot read tokenizer {path}: {error.strerror}") from error
        except Exception as error:  # JSON's errors, and the library's plain exceptions
            line = " ".join(str(error).split())
            raise UsageError(f"{path} is no tokenizer.json: {line}") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.kind = str(self.data["model"].get("type") or "BPE")
        if self.kind not in _KINDS:
            raise UsageError(f"tokenizer model '{self.kind}' is none of {', '.join(_KINDS)}")

    @property
    def size(self) -> int:
        """The largest id + 1."""
        known: Mapping[str, int] = self.tokenizer.get_vocab(with_added_tokens=True)
        return max(known.values(), default=-1) + 1

    def model_vocabulary(self) -> dict[str, int]:
        """Token -> id of the tokenizer's model, without added tokens."""
        vocab = self.data["model"]["vocab"]
        if isinstance(vocab, list):
            return {token: i for i, (token, _) in enumerate(vocab)}
        return dict(vocab)

    # -- what stays -------------------------------------------------------------------------------

    def needed(self, lines: Iterable[str], where: str) -> Kept:
        """The tokens that a corpus needs.

        Raises:
            UsageError: The corpus holds no known token.
        """
        vocab = self.model_vocabulary()
        special = {int(t["id"]) for t in self.data.get("added_tokens", ())}
        special |= set(self._post_ids(self.data.get("post_processor")))
        unknown = self._unknown(vocab)
        if unknown is not None:
            special.add(unknown)
        counts: Counter[int] = Counter()
        sample: list[tuple[int, ...]] = []
        total = 0
        for encoded in self._encoded(lines):
            total += 1
            counts.update(encoded)
            if len(sample) < 2000:
                sample.append(tuple(encoded))
        seen = set(counts) - special
        if not seen:
            raise UsageError(f"{where} holds no token that the tokenizer knows: is it text?")
        kept = special | seen
        parts = self._closure(kept, vocab) - kept
        words = sum(n for i, n in counts.items() if i in seen or i == unknown)
        return Kept(
            np.array(sorted(kept | parts), np.int64),
            len(special),
            len(seen),
            len(parts),
            counts[unknown] / max(1, words) if unknown is not None else 0.0,
            total,
            tuple(sample),
        )

    def _encoded(self, lines: Iterable[str]) -> Iterator[list[int]]:
        batch: list[str] = []
        for line in lines:
            batch.append(line)
            if len(batch) == _BATCH:
                yield from (e.ids for e in self.tokenizer.encode_batch(batch))
                batch = []
        if batch:
            yield from (e.ids for e in self.tokenizer.encode_batch(batch))

    def _unknown(self, vocab: Mapping[str, int]) -> int | None:
        model = self.data["model"]
        if "unk_id" in model:
            return None if model["unk_id"] is None else int(model["unk_id"])
        token = model.get("unk_token")
        return None if token is None else vocab.get(token)

    def _closure(self, kept: set[int], vocab: Mapping[str, int]) -> set[int]:
        """`kept` and everything that tokenising alike needs."""
        result = set(kept)
        names = {i: token for token, i in vocab.items()}
        model = self.data["model"]
        if self.kind == "BPE":
            result |= self._merged(result, vocab)
        if self.kind == "Unigram":
            scores = [score for _, score in model["vocab"]]
            result.add(int(np.argmin(scores)))
        prefix = str(model.get("continuing_subword_prefix") or "")
        suffix = str(model.get("end_of_word_suffix") or "")
        characters: set[str] = set()
        for i in result:
            token = names.get(i, "")
            plain = token.removeprefix(prefix) if prefix else token
            plain = plain.removesuffix(suffix) if suffix else plain
            characters.update(plain)
        for c in characters:
            forms = {c, prefix + c, c + suffix}
            result.update(vocab[f] for f in forms if f in vocab)
        if self._bytes():
            result.update(i for token, i in vocab.items() if len(token) == 1)
            result.update(vocab[f"<0x{b:02X}>"] for b in range(256) if f"<0x{b:02X}>" in vocab)
        return result

    def _merged(self, kept: set[int], vocab: Mapping[str, int]) -> set[int]:
        """Both parts of every merge that makes a token that is kept, and so on."""
        makes: dict[int, list[tuple[int, int]]] = {}
        for a, b in self._merges():
            made = vocab.get(self._joined(a, b))
            if made is not None and a in vocab and b in vocab:
                makes.setdefault(made, []).append((vocab[a], vocab[b]))
        result, left = set(kept), list(kept)
        while left:
            for pair in makes.get(left.pop(), ()):
                new = [i for i in pair if i not in result]
                result.update(new)
                left += new
        return result

    def _merges(self) -> Iterator[tuple[str, str]]:
        for merge in self.data["model"].get("merges") or ():
            a, b = merge.split(" ", 1) if isinstance(merge, str) else merge
            yield a, b

    def _joined(self, a: str, b: str) -> str:
        prefix = self.data["model"].get("continuing_subword_prefix") or ""
        return a + b.removeprefix(prefix) if prefix else a + b

    def _bytes(self) -> bool:
        """Whether texts are cut into bytes."""
        text = json.dumps([self.data.get("pre_tokenizer"), self.data.get("decoder")])
        return '"ByteLevel"' in text or bool(self.data["model"].get("byte_fallback"))

    def _post_ids(self, post: Any) -> Iterator[int]:
        if not isinstance(post, dict):
            return
        for part in post.get("processors") or ():
            yield from self._post_ids(part)
        for token in (post.get("special_tokens") or {}).values():
            yield from map(int, token["ids"])
        for name in ("sep", "cls"):
            if isinstance(post.get(name), list):
                yield int(post[name][1])

    # -- the smaller file -------------------------------------------------------------------------

    def trimmed(self, ids: Array) -> str:
        """The text of a tokenizer.json of these tokens, renumbered; it loads.

        Raises:
            UsageError: The library does not take it.
        """
        from tokenizers import Tokenizer

        new = {int(old): i for i, old in enumerate(ids)}
        data = json.loads(json.dumps(self.data))
        model = data["model"]
        if isinstance(model["vocab"], list):
            model["vocab"] = [pair for i, pair in enumerate(model["vocab"]) if i in new]
            if model.get("unk_id") is not None:
                model["unk_id"] = new[model["unk_id"]]
        else:
            kept = {t: new[i] for t, i in model["vocab"].items() if i in new}
            model["vocab"] = dict(sorted(kept.items(), key=lambda pair: pair[1]))
            if model.get("merges"):
                model["merges"] = [
                    raw
                    for raw, (a, b) in zip(model["merges"], self._merges(), strict=True)
                    if a in kept and b in kept and self._joined(a, b) in kept
                ]
        for token in data.get("added_tokens", ()):
            token["id"] = new[token["id"]]
        self._renumber(data.get("post_processor"), new)
        if isinstance(data.get("padding"), dict):
            data["padding"]["pad_id"] = new.get(data["padding"]["pad_id"], 0)
        text = json.dumps(data, ensure_ascii=False, indent=2)
        try:
            Tokenizer.from_str(text)
        except Exception as error:
            line = " ".join(str(error).split())
            raise UsageError(f"the trimmed tokenizer does not load: {line}") from error
        return text

    def _renumber(self, post: Any, new: Mapping[int, int]) -> None:
        if not isinstance(post, dict):
            return
        for part in post.get("processors") or ():
            self._renumber(part, new)
        for token in (post.get("special_tokens") or {}).values():
            token["ids"] = [new[int(i)] for i in token["ids"]]
        for name in ("sep", "cls"):
            if isinstance(post.get(name), list):
                post[name][1] = new[int(post[name][1])]
