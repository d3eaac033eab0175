"""Makes both tokenizers: a CLIP one (byte-level pairs) and a T5 one (unigram), each with whole known words.

Text that is not in a vocabulary falls back to single characters and then to the unknown token, so any
Unicode text is accepted.
"""

import json
import string
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from transformers import CLIPTokenizer, T5Tokenizer

from .prompts import known_words

CLIP_START: Final[str] = "<|startoftext|>"
CLIP_END: Final[str] = "<|endoftext|>"
CLIP_UNKNOWN: Final[str] = "<|unknown|>"
"""Not the end token as in OpenAI's CLIP: the pooled state is read at the first end token."""
CLIP_MAX_LENGTH: Final[int] = 77
T5_MAX_LENGTH: Final[int] = 512
WORD_START: Final[str] = "\u2581"
"""SentencePiece's mark for the beginning of a word."""

CHARACTERS: Final[str] = string.ascii_lowercase + string.digits + string.punctuation


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every neighbouring occurrence of `pair` in a word's symbols."""
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make each word one token: most frequent pair first, ties by the alphabet."""
    spellings = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while any(len(symbols) > 1 for symbols in spellings):
        counts = Counter(pair for symbols in spellings for pair in pairwise(symbols))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spellings = [_merge(symbols, best) for symbols in spellings]
    return merges


def clip_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that holds each known word as one token. It lower-cases by itself."""
    merges = learn_merges(known_words())
    tokens = [CLIP_START, CLIP_END, CLIP_UNKNOWN]
    tokens += [character + ending for ending in ("", "</w>") for character in CHARACTERS]
    tokens += [first + second for first, second in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=CLIP_UNKNOWN,
        bos_token=CLIP_START,
        eos_token=CLIP_END,
        pad_token=CLIP_END,
        model_max_length=CLIP_MAX_LENGTH,
    )


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer that holds each known word, in three letter cases, as one token."""
    words = known_words()
    cased = dict.fromkeys(form for word in words for form in (word, word.capitalize(), word.upper()))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(WORD_START + word, -3.0) for word in cased]
    taken = {piece for piece, _ in pieces}
    characters = [WORD_START, *CHARACTERS, *string.ascii_uppercase]
    pieces += [(character, -10.0) for character in characters if character not in taken]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_MAX_LENGTH)


def letter_case_pairs(tokenizer: T5Tokenizer) -> list[tuple[int, int]]:
    """(row, lower-case row) of every T5 token that has capitals: rows that must read the same."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return [
        (index, vocabulary[token.lower()])
        for token, index in vocabulary.items()
        if token != token.lower() and token.lower() in vocabulary
    ]


def save_tokenizers(folder: Path) -> None:
    """Write `folder`/tokenizer and `folder`/tokenizer_2 with every file that older loaders ask for."""
    clip_folder, t5_folder = folder / "tokenizer", folder / "tokenizer_2"
    clip_tokenizer().save_pretrained(clip_folder)
    t5_tokenizer().save_pretrained(t5_folder)
    model = json.loads((clip_folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (clip_folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (clip_folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    for tokenizer_folder in (clip_folder, t5_folder):
        path = tokenizer_folder / "tokenizer_config.json"
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config.pop("extra_special_tokens", None)
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _make_compact(tokenizer_folder / "tokenizer.json")


def _make_compact(path: Path) -> None:
    """Rewrite a JSON file without white space: the shipped model has a size limit."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
