#!/usr/bin/env python3
"""Makes tests/data/text/real_prompts.json: what transformers makes of real models' chat templates.

    python tests/goldens/make_real_templates.py TEMPLATES

Made with transformers 5.23.0 and Jinja2 3.1.6. TEMPLATES is the folder that tests/support/real_templates.py
fetches; the templates belong to the models' makers and are not kept here.

{"inputs": [names of inputs in prompts.json],
 "templates": {name: {"sha256": of the file, "prompts": [FNV-1a of each prompt, or the error's type]}}}
"""

import hashlib
import json
import pathlib
import sys

import make_text
from make_tokenizers import fnv
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils


def render(tokenizer, source, case):
    try:
        prompt = tokenizer.apply_chat_template(
            case["messages"],
            tools=case["tools"],
            chat_template=source,
            tokenize=False,
            add_generation_prompt=case["add_generation_prompt"],
            **case["args"],
        )
    except Exception as error:  # whatever it is, the template refused
        return type(error).__name__
    return fnv([prompt.encode()])


def main():
    chat_template_utils.datetime = make_text.FrozenDatetime
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_text.byte_level_bpe()[0], bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    cases = make_text.inputs()
    templates = {}
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
        # As transformers reads the file: with universal line ends.
        source = path.read_text(encoding="utf-8")
        prompts = [render(tokenizer, source, case) for case in cases.values()]
        templates[path.stem] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "prompts": prompts}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(golden)}" for name, golden in templates.items())
    out = f'{{"inputs": {json.dumps(list(cases))},\n"templates": {{\n{lines}\n}}}}\n'
    (make_text.ROOT / "real_prompts.json").write_text(out, encoding="utf-8")
    print(len(templates), "templates,", len(cases), "inputs")


if __name__ == "__main__":
    main()
