"""Makes the golden cases of models whose experts are stacked in memory and apart in the files.

    pip install -r requirements.txt
    python generate_separate_experts.py   # writes separate_experts/

Each case is a directory: `base/` (a checkpoint as transformers saves it), `adapter/`, and `merged.safetensors` (the
tensors of the merged model, as transformers saves it, that differ from the base's).
"""

import json
import pathlib
import shutil
import tempfile
import warnings

import torch
from generate import randomize
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

EXPERTS = pathlib.Path(__file__).parent / "separate_experts"
OPTIONS = dict(
    vocab_size=12, hidden_size=8, intermediate_size=6, moe_intermediate_size=6, shared_expert_intermediate_size=6,
    num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=4, num_local_experts=3, num_experts=3,
    num_experts_per_tok=2, max_position_embeddings=16, decoder_sparse_step=1, pad_token_id=None, bos_token_id=1,
    eos_token_id=2,
)
BOTH = ["experts.gate_up_proj", "experts.down_proj"]

# name, model type, LoraConfig
CASES = [
    ("mixtral", "mixtral", dict(target_parameters=BOTH, target_modules=["q_proj"], r=2, lora_alpha=3)),
    ("mixtral-gate", "mixtral", dict(target_parameters=["gate.weight", "experts.down_proj"], target_modules=[], r=2)),
    # What PEFT makes of the names of transformers 4.
    ("mixtral-old-names", "mixtral", dict(target_modules=["w1", "w2", "w3", "v_proj"], r=2, lora_alpha=3)),
    ("qwen2-moe", "qwen2_moe", dict(target_parameters=BOTH, target_modules=["k_proj"], r=2, use_rslora=True)),
    ("qwen2-moe-up", "qwen2_moe", dict(
        target_parameters=["experts.gate_up_proj"], target_modules=[], r=2, rank_pattern={"gate_up_proj": 3},
        alpha_pattern={".*\\.gate_up_proj": 5},
    )),
]


def saved(model):
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        return load_file(pathlib.Path(directory) / "model.safetensors")


def make_case(name, model_type, config):
    directory = EXPERTS / name
    torch.manual_seed(sum(map(ord, name)))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **OPTIONS)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    model.save_pretrained(directory / "base")
    (directory / "base" / "generation_config.json").unlink(missing_ok=True)
    original = load_file(directory / "base" / "model.safetensors")
    adapted = get_peft_model(model, LoraConfig(**config))
    randomize(adapted, "default")
    adapter = directory / "adapter"
    adapted.save_pretrained(adapter)
    (adapter / "README.md").unlink(missing_ok=True)
    path = adapter / "adapter_config.json"
    keys = json.loads(path.read_text())
    keys["base_model_name_or_path"] = f"tiny-{model_type}"
    keys["auto_mapping"] = None
    for key in ("target_modules", "target_parameters"):
        keys[key] = sorted(keys[key]) if keys[key] else keys[key]
    path.write_text(json.dumps(keys, indent=2, sort_keys=True) + "\n")
    base = AutoModelForCausalLM.from_pretrained(directory / "base", dtype=torch.float32)
    merged = saved(PeftModel.from_pretrained(base, adapter).merge_and_unload())
    assert merged.keys() == original.keys()
    changed = {key: value for key, value in merged.items() if not torch.equal(value, original[key])}
    save_file(changed, directory / "merged.safetensors")


def main():
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    shutil.rmtree(EXPERTS, ignore_errors=True)
    for case in CASES:
        make_case(*case)
        print(case[0])


if __name__ == "__main__":
    main()
