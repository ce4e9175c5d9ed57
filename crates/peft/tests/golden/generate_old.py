"""Makes golden cases with an old PEFT: its files differ from today's, and its users still have them.

    pip install -r requirements-0.10.txt         # or -0.14, in an environment of its own
    python generate_old.py                       # writes old/VERSION/, VERSION being the PEFT that is installed
    python generate_old.py --check DIR           # DIR/<version>/<case>/adapter and DIR/new/<case>/adapter were saved by
                                                 # lora-peft: the PEFT that is installed must load them and merge them
                                                 # to DIR/…/<case>/merged

The models are those of `generate.py`. Each case is a directory with `case.json`, `adapter/` and `merged.safetensors`.
"""

import argparse
import json
import pathlib
import shutil
import warnings

import peft
import torch
from generate import base_directory, load_base, randomize
from packaging.version import Version
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

OLD = pathlib.Path(__file__).parent / "old"

# name, model, LoraConfig, arguments of save_pretrained
CASES = [
    ("plain", "llama", dict(target_modules=["q_proj", "v_proj"], r=4, lora_alpha=6), {}),
    ("rslora", "llama", dict(target_modules=["o_proj"], r=3, lora_alpha=5, use_rslora=True), {}),
    ("dora", "llama", dict(target_modules=["k_proj", "down_proj"], use_dora=True, r=3), {}),
    ("conv-dora", "conv", dict(target_modules=["first", "point"], use_dora=True, r=2), {}),
    ("patterns", "llama", dict(
        target_modules=["q_proj", "up_proj", "down_proj"], r=4, lora_alpha=8,
        rank_pattern={"layers.0.self_attn.q_proj": 2, "up_proj": 5}, alpha_pattern={"down_proj": 3},
    ), {}),
    # One key for the rank and another for alpha: before 0.14 the first found counted for both.
    ("two-patterns", "llama", dict(
        target_modules=["q_proj"], r=4, lora_alpha=8, rank_pattern={"self_attn.q_proj": 2}, alpha_pattern={"q_proj": 3},
    ), {}),
    ("layers", "llama", dict(target_modules=["o_proj", "gate_proj"], layers_to_transform=[1], layers_pattern="layers", r=2), {}),
    ("embeddings", "llama", dict(target_modules=["embed_tokens", "lm_head"], r=3), {}),
    ("saved", "llama", dict(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"], r=2), {}),
    # What `auto` does when the vocabulary has been resized.
    ("saved-twice", "llama", dict(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"], r=2),
     dict(save_embedding_layers=True)),
    ("embeddings-along", "llama", dict(target_modules=["q_proj"], r=2), dict(save_embedding_layers=True)),
    ("bias-only", "llama-biased", dict(target_modules=["q_proj", "o_proj"], bias="lora_only", r=3), {}),
    ("bias-all", "bert-classifier", dict(target_modules=["query"], bias="all", task_type="SEQ_CLS", r=2), {}),
    ("conv1d", "gpt2", dict(target_modules=["c_attn", "attn.c_proj"], fan_in_fan_out=True, r=3), {}),
    ("conv", "conv", dict(target_modules=["first", "point"], r=2), {}),
]


def merged_tensors(model_name, adapter):
    """What those get who load the adapter: the tensors that differ from the base's."""
    original = load_file(base_directory(model_name, "f32") / "model.safetensors")
    merged = PeftModel.from_pretrained(load_base(model_name, "f32"), adapter).merge_and_unload().state_dict()
    return {key: merged[key].contiguous().clone() for key in original if not torch.equal(merged[key], original[key])}


def make_case(directory, model_name, config, saving):
    torch.manual_seed(sum(map(ord, directory.name)))
    adapter = directory / "adapter"
    model = get_peft_model(load_base(model_name, "f32"), LoraConfig(**config))
    randomize(model, "default")
    model.save_pretrained(adapter, **saving)
    (adapter / "README.md").unlink(missing_ok=True)
    path = adapter / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["base_model_name_or_path"] = f"tiny-{model_name}"
    saved["auto_mapping"] = None
    if isinstance(saved["target_modules"], list):
        saved["target_modules"].sort()
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    save_file(merged_tensors(model_name, adapter), directory / "merged.safetensors")
    case = dict(base=f"{model_name}-f32", model=model_name, dtype="f32")
    (directory / "case.json").write_text(json.dumps(case) + "\n")


def check(saved):
    for case_file in sorted(saved.glob("*/*/case.json")):
        directory = case_file.parent
        name, version = f"{directory.parent.name}/{directory.name}", directory.parent.name
        if version != "new" and Version(version) > Version(peft.__version__):
            print(f"{name}: of a later PEFT")
            continue
        if directory.name == "two-patterns" and Version(peft.__version__) < Version("0.14"):
            print(f"{name}: lora-peft goes by the later rule")
            continue
        case = json.loads(case_file.read_text())
        ours = load_file(directory / "merged" / "model.safetensors")
        original = load_file(base_directory(case["model"], "f32") / "model.safetensors")
        theirs = {**original, **merged_tensors(case["model"], directory / "adapter")}
        assert ours.keys() == theirs.keys(), name
        for key, expected in theirs.items():
            error = (ours[key] - expected).abs().max()
            assert error <= 1e-6 * expected.abs().max(), f"{name}: {key} differs by {error}"
        print(f"{name}: equal")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=pathlib.Path, metavar="DIR")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if arguments.check:
        return check(arguments.check)
    root = OLD / peft.__version__
    shutil.rmtree(root, ignore_errors=True)
    for name, model_name, config, saving in CASES:
        (root / name).mkdir(parents=True)
        make_case(root / name, model_name, config, saving)
        print(name)


if __name__ == "__main__":
    main()
