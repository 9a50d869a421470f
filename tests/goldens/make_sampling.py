#!/usr/bin/env python3
"""Makes tests/data/sampling: what sampling must give, computed without modeld's code.

    python tests/goldens/make_sampling.py

Made with torch 2.15 and transformers 5.23.0.

distributions.json  one row of logits; for each setting the exact probability of each token, in
                    float64 from the formulas below, and the chi-square that draws exceed by chance
                    once in 1,000 times
cases.json          1,000 random settings: the greedy token, and the tokens that eight seeds draw by
                    transformers' processors (Philox4x32-10, then the inverse distribution in order
                    of token id). Logits and history come from SplitMix64, see `row` and `history`.
"""

import json
import math
import pathlib
import random

import numpy as np
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

OUT = pathlib.Path(__file__).resolve().parents[1] / "data" / "sampling"
MASK = 2**64 - 1
CASES = 1000
SEEDS = 8
LOGITS = [1.5, 0.25, -0.5, 2.75, 2.75, -1.25, 0.75, 3.5, -2.0, 1.0, 2.0, -0.25]
LOGITS += [0.5, 3.0, -1.5, 1.25, 2.25, 0.0, -0.75, 1.75, 2.5, -1.0, 0.125, 3.25]
PROMPT = [5, 7, 13, 2, 9, 5, 7, 3, 11, 20]
ANSWER = [5, 7, 13, 23, 5, 7]


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def keep(scores, kept):
    return np.where(kept, scores, -np.inf)


def top_k(scores, k):
    return keep(scores, scores >= np.sort(scores)[-k])


def top_p(scores, p):
    order = np.lexsort((np.arange(len(scores)), -scores))
    before = np.concatenate([[0], np.cumsum(softmax(scores)[order])[:-1]])
    kept = np.zeros(len(scores), bool)
    kept[order[before < p]] = True
    return keep(scores, kept)


def min_p(scores, p):
    probabilities = softmax(scores)
    return keep(scores, probabilities >= p * probabilities.max())


def typical_p(scores, mass):
    p = softmax(scores)
    information = -np.log(np.where(p > 0, p, 1))
    distance = np.where(p > 0, np.abs(information - np.sum(p * information)), np.inf)
    order = np.argsort(distance, kind="stable")
    count = int(np.sum(np.cumsum(p[order]) < mass))
    return keep(scores, distance <= distance[order][min(count, len(p) - 1)])


def top_n_sigma(scores, n):
    return keep(scores, scores >= scores.max() - n * np.std(scores))


def repetition(scores, penalty):
    seen = np.isin(np.arange(len(scores)), PROMPT + ANSWER)
    return np.where(seen, np.where(scores < 0, scores * penalty, scores / penalty), scores)


def presence_frequency(scores, presence, frequency):
    counts = np.bincount(ANSWER, minlength=len(scores))
    return scores - counts * frequency - (counts > 0) * presence


def dry(scores, multiplier, base, allowed, last_n, breakers):
    """By the definition: for each earlier place, how much of what precedes it is the end of all."""
    tokens = (PROMPT + ANSWER)[-last_n:]
    longest = {}
    for place in range(1, len(tokens)):
        length = 0
        while length < place and tokens[place - 1 - length] == tokens[-1 - length]:
            if tokens[-1 - length] in breakers:
                break
            length += 1
        if length >= allowed and tokens[place] not in breakers:
            longest[tokens[place]] = max(length, longest.get(tokens[place], 0))
    scores = scores.copy()
    for token, length in longest.items():
        scores[token] -= multiplier * base ** (length - allowed)
    return scores


def xtc(scores, probability, threshold):
    p = softmax(scores)
    above = np.flatnonzero(p >= threshold)
    if len(above) < 2:
        return p
    stays = above[np.argmin(p[above])]
    without = keep(scores, ~np.isin(np.arange(len(p)), above[above != stays]))
    return (1 - probability) * p + probability * softmax(without)


def without(scores, ids):
    return keep(scores, ~np.isin(np.arange(len(scores)), ids))


def critical(probabilities):
    """The chi-square of which a probability of 0.001 is above."""
    half_df = torch.tensor((np.count_nonzero(probabilities) - 1) / 2, dtype=torch.float64)
    low, high = 0.0, 1000.0
    for _ in range(100):
        middle = (low + high) / 2
        half = torch.tensor(middle / 2, dtype=torch.float64)
        above = torch.special.gammaincc(half_df, half) > 0.001
        low, high = (middle, high) if above else (low, middle)
    return round(high, 4)


def distributions():
    s = np.array(LOGITS)
    dry_arguments = {"multiplier": 1.5, "base": 1.75, "allowed_length": 2}
    settings = [
        ("plain", {}, softmax(s)),
        ("temperature", {"temperature": 0.7}, softmax(s / 0.7)),
        ("high temperature", {"temperature": 3}, softmax(s / 3)),
        ("top_k", {"top_k": 7}, softmax(top_k(s, 7))),
        ("top_p", {"top_p": 0.8}, softmax(top_p(s, 0.8))),
        ("min_p", {"min_p": 0.2}, softmax(min_p(s, 0.2))),
        ("typical_p", {"typical_p": 0.5}, softmax(typical_p(s, 0.5))),
        ("top_n_sigma", {"top_n_sigma": 1}, softmax(top_n_sigma(s, 1))),
        ("repetition_penalty", {"repetition_penalty": 1.4}, softmax(repetition(s, 1.4))),
        ("presence_penalty", {"presence_penalty": 1.25}, softmax(presence_frequency(s, 1.25, 0))),
        ("frequency_penalty", {"frequency_penalty": 0.5}, softmax(presence_frequency(s, 0, 0.5))),
        (
            "logit_bias",
            {"logit_bias": {"8": 3.5, "7": -2}},
            softmax(s + 3.5 * (np.arange(24) == 8) - 2 * (np.arange(24) == 7)),
        ),
        ("min_tokens", {"min_tokens": 7, "stop_token_ids": [7, 23]}, softmax(without(s, [7, 23]))),
        ("min_tokens reached", {"min_tokens": 6, "stop_token_ids": [7, 23]}, softmax(s)),
        ("bad_words", {"bad_words": [[13], [5, 7, 4], [7, 7, 3]]}, softmax(without(s, [13, 4]))),
        (
            "allowed_token_ids",
            {"allowed_token_ids": [20, 1, 4, 8]},
            softmax(without(s, sorted(set(range(24)) - {20, 1, 4, 8}))),
        ),
        ("dry", {"dry": dry_arguments}, softmax(dry(s, 1.5, 1.75, 2, 99, []))),
        (
            "dry with a breaker",
            {"dry": dry_arguments | {"breaker_token_ids": [23]}},
            softmax(dry(s, 1.5, 1.75, 2, 99, [23])),
        ),
        (
            "dry over few tokens",
            {"dry": dry_arguments | {"allowed_length": 1, "penalty_last_n": 7}},
            softmax(dry(s, 1.5, 1.75, 1, 7, [])),
        ),
        ("xtc", {"xtc_probability": 0.4, "xtc_threshold": 0.08}, xtc(s, 0.4, 0.08)),
        (
            "in their order",
            {
                "repetition_penalty": 1.2,
                "frequency_penalty": 0.25,
                "temperature": 1.5,
                "top_k": 18,
                "top_p": 0.95,
                "min_p": 0.1,
                "typical_p": 0.9,
                "xtc_probability": 0.5,
                "xtc_threshold": 0.09,
            },
            xtc(
                typical_p(
                    min_p(
                        top_p(top_k(presence_frequency(repetition(s, 1.2), 0, 0.25) / 1.5, 18), 0.95),
                        0.1,
                    ),
                    0.9,
                ),
                0.5,
                0.09,
            ),
        ),
    ]
    assert all(p[p > 0].min() * 200_000 >= 5 for _, _, p in settings)
    return {
        "logits": LOGITS,
        "prompt": PROMPT,
        "answer": ANSWER,
        "settings": [
            {
                "name": name,
                "sampling": sampling,
                "probabilities": [round(x, 15) for x in p.tolist()],
                "chi_square_max": critical(p),
            }
            for name, sampling, p in settings
        ],
    }


def mix(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def row(case, vocab):
    """Multiples of 2^-20 from -8 to 8, which a float32 holds exactly."""
    return [((mix(case << 32 | i) >> 40) - 2**23) / 2**20 for i in range(vocab)]


def history(case, vocab, length):
    return [mix(case << 32 | 1 << 31 | i) % vocab for i in range(length)]


def philox(counter, key):
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            b >> 32 ^ counter[1] ^ key[0],
            b & 0xFFFFFFFF,
            a >> 32 ^ counter[3] ^ key[1],
            a & 0xFFFFFFFF,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def unit(seed, position):
    words = philox([position, 0, 0, 0], [seed & 0xFFFFFFFF, seed >> 32])
    return ((words[1] << 32 | words[0]) >> 11) * 2.0**-53


def settings_of(rng, vocab, tokens):
    s = {}
    if rng.random() < 0.3:
        s["logit_bias"] = {
            str(rng.randrange(vocab)): rng.randrange(-64, 65) / 16 for _ in range(rng.randint(1, 3))
        }
    if rng.random() < 0.4:
        s["repetition_penalty"] = round(rng.uniform(0.6, 2), 2)
    if rng.random() < 0.3:
        after = rng.randint(1, 3)
        s["bad_words"] = [[rng.randrange(vocab)], tokens[-after:] + [rng.randrange(vocab)]]
    if rng.random() < 0.2:
        s["min_tokens"] = rng.randint(1, 30)
        s["stop_token_ids"] = rng.sample(range(vocab), 2)
    if rng.random() < 0.2:
        s["allowed_token_ids"] = sorted(rng.sample(range(vocab), 12))
    if rng.random() < 0.6:
        s["temperature"] = round(rng.uniform(0.2, 2.5), 2)
    if rng.random() < 0.4:
        s["top_k"] = rng.randint(1, vocab)
    if rng.random() < 0.4:
        s["top_p"] = round(rng.uniform(0.05, 1), 3)
    if rng.random() < 0.3:
        s["min_p"] = round(rng.uniform(0.001, 0.6), 3)
    if rng.random() < 0.3:
        s["typical_p"] = round(rng.uniform(0.05, 0.99), 3)
    return s


def processors(s, prompt_length):
    """In the order of GenerationMixin._get_logits_processor."""
    first, then = [], []
    if "logit_bias" in s:
        bias = {(int(token),): float(value) for token, value in s["logit_bias"].items()}
        first.append(SequenceBiasLogitsProcessor(bias))
    if "repetition_penalty" in s:
        first.append(RepetitionPenaltyLogitsProcessor(s["repetition_penalty"]))
    if "bad_words" in s:
        first.append(NoBadWordsLogitsProcessor(s["bad_words"]))
    if "min_tokens" in s:
        first.append(MinNewTokensLengthLogitsProcessor(prompt_length, s["min_tokens"], s["stop_token_ids"]))
    if "allowed_token_ids" in s:
        allowed = s["allowed_token_ids"]
        first.append(PrefixConstrainedLogitsProcessor(lambda *_: allowed, 1))
    if "temperature" in s:
        then.append(TemperatureLogitsWarper(s["temperature"]))
    if "top_k" in s:
        then.append(TopKLogitsWarper(s["top_k"]))
    if "top_p" in s:
        then.append(TopPLogitsWarper(s["top_p"]))
    if "min_p" in s:
        then.append(MinPLogitsWarper(s["min_p"]))
    if "typical_p" in s:
        then.append(TypicalLogitsWarper(s["typical_p"]))
    return first, then


def results_of(s, case, vocab, tokens, prompt_length, dtype):
    """Greedy token, and the eight drawn ones; None when rounding could decide one of them."""
    scores = torch.tensor([row(case, vocab)], dtype=dtype)
    ids = torch.tensor([tokens])
    first, then = processors(s, prompt_length)
    for processor in first:
        scores = processor(ids, scores)
    if not torch.isfinite(scores).any():
        return None
    greedy = int(scores.argmax())
    for processor in then:
        scores = processor(ids, scores)
    running = torch.softmax(scores.double(), dim=-1)[0].cumsum(dim=0).numpy()
    drawn = []
    for seed in range(SEEDS):
        u = unit(mix(case << 8 | seed), len(tokens) - prompt_length)
        if np.abs(running - u).min() < 1e-6:
            return None
        drawn.append(int(np.searchsorted(running, u, side="right")))
    return greedy, drawn


def cases():
    rng = random.Random(1)
    out = []
    number = 0
    while len(out) < CASES:
        number += 1
        vocab = rng.choice([16, 50, 131, 400])
        length = rng.randint(4, 40)
        prompt_length = rng.randint(1, length)
        tokens = history(number, vocab, length)
        s = settings_of(rng, vocab, tokens)
        wide = results_of(s, number, vocab, tokens, prompt_length, torch.float64)
        narrow = results_of(s, number, vocab, tokens, prompt_length, torch.float32)
        if wide is None or wide != narrow:
            continue
        out.append(
            {
                "case": number,
                "vocab": vocab,
                "prompt": prompt_length,
                "answer": length - prompt_length,
                "sampling": s,
                "greedy": wide[0],
                "drawn": wide[1],
            }
        )
    print(f"{number - CASES} of {number} cases left out, where rounding decides")
    assert number - CASES <= CASES // 50
    return out


def check_philox():
    """The known answers that come with its authors' Random123."""
    ones = 0xFFFFFFFF
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([ones] * 4, [ones] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def main():
    check_philox()
    assert math.isclose(critical(np.ones(11)), 29.588, abs_tol=1e-3)  # as in every table
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "distributions.json").write_text(json.dumps(distributions(), indent=1) + "\n")
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases())
    (OUT / "cases.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
