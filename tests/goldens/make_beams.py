"""Writes tests/data/sampling/beams.json: what transformers' beam search answers over a table of logits.

    python tests/goldens/make_beams.py

The model's logits follow from the last two tokens by a formula in whole numbers, so that the test computes
the same ones; only the choice among them is compared.
"""

import json
import pathlib
import random

import torch
import transformers
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

VOCAB = 37
OUT = pathlib.Path(__file__).resolve().parents[1] / "data" / "sampling" / "beams.json"


class TableConfig(PretrainedConfig):
    model_type = "table"


class TableModel(PreTrainedModel, GenerationMixin):
    """Logits of a token behind two others: a hash in steps of 1/128, from 0 to 8."""

    config_class = TableConfig
    main_input_name = "input_ids"
    _supports_cache_class = False

    def __init__(self, config):
        super().__init__(config)
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.post_init()

    def forward(self, input_ids, **unused):
        last = input_ids[:, -1].tolist()
        before = input_ids[:, -2].tolist()
        rows = [
            [(a * 7919 + b * 104729 + t * 1299709 + a * b * t) % 1021 / 128.0 for t in range(VOCAB)]
            for a, b in zip(before, last, strict=True)
        ]
        return CausalLMOutputWithPast(logits=torch.tensor(rows, dtype=torch.float32)[:, None, :])

    def prepare_inputs_for_generation(self, input_ids, **unused):
        return {"input_ids": input_ids}


def options_of(rng):
    num_beams = rng.choice([2, 3, 4, 6])
    options = {
        "num_beams": num_beams,
        "num_return_sequences": rng.randint(1, num_beams),
        "max_new_tokens": rng.choice([1, 2, 5, 12, 30]),
        "length_penalty": rng.choice([-1.0, 0.0, 0.5, 1.0, 2.0]),
        "early_stopping": rng.choice([False, True, "never"]),
        "eos_token_id": rng.sample(range(VOCAB), rng.choice([1, 1, 3])),
    }
    if rng.random() < 0.3:
        options["repetition_penalty"] = rng.choice([0.8, 1.3])
    if rng.random() < 0.3 and options["max_new_tokens"] > 4:
        options["min_new_tokens"] = 3
    return options


def main():
    rng = random.Random(20261125)
    model = TableModel(TableConfig(vocab_size=VOCAB)).eval()
    cases = []
    for _ in range(200):
        prompt = [rng.randrange(VOCAB) for _ in range(rng.randint(2, 6))]
        options = options_of(rng)
        config = GenerationConfig(
            **options,
            do_sample=False,
            use_cache=False,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        with torch.no_grad():
            out = model.generate(torch.tensor([prompt]), generation_config=config)
        sequences = []
        for row in out.sequences[:, len(prompt) :].tolist():
            ends = [i for i, t in enumerate(row) if t in options["eos_token_id"]]
            sequences.append(row[: ends[0] + 1] if ends else row)
        cases.append(
            {
                "prompt": prompt,
                **options,
                "early_stopping": str(options["early_stopping"]).lower(),
                "sequences": sequences,
                "scores": out.sequences_scores.tolist(),
            }
        )
    OUT.write_text(
        json.dumps({"transformers": transformers.__version__, "vocab": VOCAB, "cases": cases}) + "\n"
    )


if __name__ == "__main__":
    main()
