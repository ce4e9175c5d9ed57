"""Makes the golden cases of checkpoints whose files have other names, other parts or another layout than the class that an
adapter was trained with.

    pip install -r requirements.txt
    python generate_layouts.py           # writes public/layouts-*/
    python generate_layouts.py --check   # fails if what is there is not what this would write

Each case is a directory: `base/` (a checkpoint as transformers saves it, or with the names that its class has in memory),
`adapter/`, and `expected/model.safetensors` (the tensors of the merged model that differ from the base's, by the base's names).
Expected values are those of PEFT and transformers, and in float64 of this script where they have no such case.
"""

import filecmp
import json
import pathlib
import re
import shutil
import sys
import tempfile
import warnings

import torch
import transformers
from generate import randomize
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

PUBLIC = pathlib.Path(__file__).parent / "public"
TEXT = dict(
    vocab_size=24, hidden_size=8, intermediate_size=12, moe_intermediate_size=6, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=4, max_position_embeddings=32, pad_token_id=None,
    bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
)
VISION = dict(
    hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_channels=3, image_size=8,
    patch_size=4, projection_dim=8,
)
QWEN_VISION = dict(
    depth=1, hidden_size=8, embed_dim=8, intermediate_size=12, num_heads=2, in_channels=3, out_hidden_size=8, patch_size=4,
    spatial_merge_size=2, temporal_patch_size=2, num_position_embeddings=16, mlp_ratio=2, deepstack_visual_indexes=[0],
)
QWEN_TEXT = dict(TEXT, rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 0]))
HYBRID = dict(
    TEXT, layer_types=["linear_attention", "full_attention"], linear_conv_kernel_dim=4, linear_key_head_dim=4,
    linear_num_key_heads=1, linear_num_value_heads=2, linear_value_head_dim=4,
    rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


def vision_language(model_type, text=TEXT, vision=VISION, **more):
    config = AutoConfig.for_model(model_type, **more)
    for part, options in (("text_config", text), ("vision_config", vision)):
        old = getattr(config, part)
        setattr(config, part, type(old)(**options))
    return config


def plain(model_type, **more):
    return AutoConfig.for_model(model_type, **{**TEXT, **more})


def further_tokens(tensors):
    """A layer for further tokens, of which the class knows nothing: the last one once more."""
    last = max(int(found[1]) for name in tensors if (found := re.search(r"layers\.(\d+)\.", name)))
    layer = {name: value for name, value in tensors.items() if f"layers.{last}." in name}
    return {f"mtp.layers.0.{name.split(f'layers.{last}.')[1]}": value.clone() for name, value in layer.items()}


def next_layer(tensors):
    """A layer more than `config.json` says."""
    layer = {name.replace("layers.1.", "layers.2."): value.clone() for name, value in tensors.items() if "layers.1." in name}
    return {**layer, "model.layers.2.eh_proj.weight": torch.randn(8, 16) * 0.1}


# name, class, configuration, LoraConfig, what is added to the base, whether the base has the names of the class
CASES = [
    ("gemma3", "Gemma3ForConditionalGeneration", lambda: vision_language("gemma3", mm_tokens_per_image=4),
     dict(target_modules=ALL), None, False),
    ("gemma3-class-names", "Gemma3ForConditionalGeneration", lambda: vision_language("gemma3", mm_tokens_per_image=4),
     dict(target_modules="all-linear"), None, True),
    ("llava", "LlavaForConditionalGeneration",
     lambda: vision_language("llava", dict(TEXT, model_type="llama"), dict(VISION, model_type="clip_vision_model")),
     dict(target_modules=r".*language_model.*\.(q_proj|v_proj)", modules_to_save=["lm_head"]), None, False),
    ("mistral3", "Mistral3ForConditionalGeneration", lambda: vision_language("mistral3", vision=dict(VISION, head_dim=4)),
     dict(target_modules="all-linear", rank_pattern={"o_proj": 3}), None, False),
    ("qwen2-vl", "Qwen2VLForConditionalGeneration", lambda: vision_language("qwen2_vl", QWEN_TEXT, QWEN_VISION),
     dict(target_modules=["q_proj", "qkv", "fc1"]), None, False),
    ("qwen2-5-vl", "Qwen2_5_VLForConditionalGeneration",
     lambda: vision_language("qwen2_5_vl", QWEN_TEXT, dict(QWEN_VISION, fullatt_block_indexes=[0])),
     dict(target_modules=ALL, bias="all"), None, False),
    ("qwen2-5-vl-class-names", "Qwen2_5_VLForConditionalGeneration",
     lambda: vision_language("qwen2_5_vl", QWEN_TEXT, dict(QWEN_VISION, fullatt_block_indexes=[0])),
     dict(target_modules=ALL), None, True),
    ("qwen3-5-further-tokens", "Qwen3_5ForConditionalGeneration", lambda: vision_language("qwen3_5", HYBRID, QWEN_VISION),
     dict(target_modules=ALL), further_tokens, False),
    ("deepseek-v3-layer-more", "DeepseekV3ForCausalLM",
     lambda: plain("deepseek_v3", num_key_value_heads=2, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2,
                   n_group=1, topk_group=1, kv_lora_rank=4, q_lora_rank=4, qk_rope_head_dim=4, qk_nope_head_dim=4,
                   v_head_dim=4, first_k_dense_replace=1),
     dict(target_modules=["q_a_proj", "o_proj"], target_parameters=EXPERTS), next_layer, False),
    ("vit", "ViTForImageClassification", lambda: AutoConfig.for_model("vit", **VISION, num_labels=3),
     dict(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]), None, False),
    ("bert-without-pooler", "BertForTokenClassification", lambda: AutoConfig.for_model("bert", **{**TEXT, "pad_token_id": 0}),
     dict(target_modules=["dense", "query"]),
     lambda tensors: {"bert.pooler.dense.weight": torch.randn(8, 8), "bert.pooler.dense.bias": torch.randn(8)}, False),
    ("granitemoe", "GraniteMoeForCausalLM", lambda: plain("granitemoe", num_local_experts=3, num_experts_per_tok=2),
     dict(target_modules=["q_proj"], target_parameters=[*EXPERTS, "router.weight"]), None, False),
    ("granitemoeshared", "GraniteMoeSharedForCausalLM",
     lambda: plain("granitemoeshared", num_local_experts=3, num_experts_per_tok=2, shared_intermediate_size=6),
     dict(target_modules=["input_linear"], target_parameters=EXPERTS), None, False),
    ("granitemoehybrid", "GraniteMoeHybridForCausalLM",
     lambda: plain("granitemoehybrid", num_local_experts=3, num_experts_per_tok=2, shared_intermediate_size=6,
                   layer_types=["attention", "attention"], mamba_n_heads=4, mamba_d_head=4, mamba_d_state=4),
     dict(target_modules=["q_proj"], target_parameters=["experts.down_proj"]), None, False),
    ("lfm2-moe", "Lfm2MoeForCausalLM",
     lambda: plain("lfm2_moe", num_experts=3, num_experts_per_tok=2, num_dense_layers=1,
                   layer_types=["conv", "full_attention"]),
     dict(target_modules=["q_proj"], target_parameters=EXPERTS), None, False),
    ("minimax-m2", "MiniMaxM2ForCausalLM", lambda: plain("minimax_m2", num_local_experts=3, num_experts_per_tok=2),
     dict(target_modules=["q_proj"], target_parameters=EXPERTS), None, False),
    ("phimoe", "PhimoeForCausalLM", lambda: plain("phimoe", num_local_experts=3, num_experts_per_tok=2),
     dict(target_modules=["q_proj"], target_parameters=[*EXPERTS, "router.weight"]), None, False),
    ("jamba", "JambaForCausalLM",
     lambda: plain("jamba", num_experts=3, num_experts_per_tok=2, expert_layer_period=1, expert_layer_offset=0,
                   attn_layer_period=1, attn_layer_offset=0, use_mamba_kernels=False),
     dict(target_modules=["q_proj"], target_parameters=EXPERTS), None, False),
]


# What files on the hub have in their names that transformers takes out and, of a model that was not loaded, does not put back.
HUB = {"gemma3": ("vision_tower.", "vision_tower.vision_model."), "llava": ("vision_tower.", "vision_tower.vision_model.")}


def in_file_names(model):
    """The tensors as transformers saves them."""
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        return load_file(pathlib.Path(directory) / "model.safetensors")


def in_class_names(model):
    seen, tensors = set(), {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            tensors[name] = value.contiguous().clone()
    return tensors


def write_adapter(adapter, base):
    (adapter / "README.md").unlink(missing_ok=True)
    path = adapter / "adapter_config.json"
    keys = json.loads(path.read_text())
    keys["base_model_name_or_path"], keys["auto_mapping"] = base, None
    for key in ("target_modules", "target_parameters", "modules_to_save"):
        keys[key] = sorted(keys[key]) if isinstance(keys.get(key), list) else keys.get(key)
    path.write_text(json.dumps(keys, indent=2, sort_keys=True) + "\n")


def write(directory, base, config, expected):
    for name, tensors in (("base", base), ("expected", expected)):
        (directory / name).mkdir(parents=True, exist_ok=True)
        save_file(tensors, directory / name / "model.safetensors", {"format": "pt"})
    if config is not None:
        (directory / "base" / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def make(root, name, class_name, config, lora, extra, class_names):
    directory = root / f"layouts-{name}"
    torch.manual_seed(sum(map(ord, name)))
    model = getattr(transformers, class_name)(config()).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    tensors = in_class_names if class_names else in_file_names
    base = tensors(model)
    more = extra(base) if extra else {}
    keys = {**json.loads(model.config.to_json_string(use_diff=False)), "architectures": [class_name]}
    adapted = get_peft_model(model, LoraConfig(**{"r": 2, "lora_alpha": 3, **lora}))
    randomize(adapted, "default")
    adapted.save_pretrained(directory / "adapter")
    write_adapter(directory / "adapter", f"tiny-{name}")
    merged = tensors(adapted.merge_and_unload())
    assert merged.keys() == base.keys(), (merged.keys() ^ base.keys())
    changed = {key: value for key, value in merged.items() if not torch.equal(value, base[key])}
    assert changed
    base, changed = ({key.replace(*HUB.get(name, ("", ""))): value for key, value in tensors.items()}
                     for tensors in ({**base, **more}, changed))
    write(directory, base, keys, changed)


# Text alone, out of a model with images: the values are those of the same tensors.
TEXT_CASES = [("gemma3-text", "gemma3", "Gemma3ForCausalLM"), ("qwen3-5-text", "qwen3-5-further-tokens", "Qwen3_5ForCausalLM")]


def make_text(root, name, whole, class_name):
    directory, source = root / f"layouts-{name}", root / f"layouts-{whole}"
    shutil.copytree(source / "base", directory / "base")
    torch.manual_seed(sum(map(ord, name)))
    config = AutoConfig.from_pretrained(source / "base").text_config
    adapted = get_peft_model(
        getattr(transformers, class_name)(config), LoraConfig(r=2, lora_alpha=3, target_modules=ALL))
    randomize(adapted, "default")
    adapted.save_pretrained(directory / "adapter")
    write_adapter(directory / "adapter", f"tiny-{name}")
    base = load_file(source / "base" / "model.safetensors")
    expected = {}
    for path, layer in layers(load_file(directory / "adapter" / "adapter_model.safetensors")).items():
        inner = path.removeprefix("model.")
        [key] = [key for key in base if key.endswith(f"language_model.{inner}.weight")
                 or key.endswith(f"language_model.model.{inner}.weight")]
        expected[key] = merged(base[key], layer, 1.5)
    write(directory, base, None, expected)


def layers(tensors):
    """A and B by module."""
    found = {}
    for key, value in tensors.items():
        path, which = re.fullmatch(r"base_model\.model\.(.*)\.(lora_[AB])\.weight", key).groups()
        found.setdefault(path, {})[which] = value.double()
    return found


def merged(weight, layer, scale):
    return (weight.double() + scale * layer["lora_B"] @ layer["lora_A"]).to(weight.dtype)


def adapter_of(directory, shapes, config):
    """An adapter of these modules, with A and B of [r, in] and [out, r]."""
    tensors = {}
    for path, (out, inner, rank) in shapes.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(rank, inner) * 0.3
        tensors[f"base_model.model.{path}.lora_B.weight"] = torch.randn(out, rank) * 0.3
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    keys = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "base_model_name_or_path": "some/model", **config}
    (directory / "adapter_config.json").write_text(json.dumps(keys, indent=2, sort_keys=True) + "\n")
    return layers(tensors)


def make_split_on_fused(root):
    """Adapters of q, k, v, gate and up, as a Llama has them, on Phi-3's fused matrices."""
    directory = root / "layouts-phi3-split"
    torch.manual_seed(3)
    base = {}
    for layer in range(2):
        at = f"model.layers.{layer}."
        base[at + "self_attn.qkv_proj.weight"] = torch.randn(16, 8) * 0.2
        base[at + "self_attn.o_proj.weight"] = torch.randn(8, 8) * 0.2
        base[at + "mlp.gate_up_proj.weight"] = torch.randn(24, 8) * 0.2
    shapes = {}
    for layer in range(2):
        at = f"model.layers.{layer}."
        shapes |= {at + "self_attn.q_proj": (8, 8, 2), at + "self_attn.v_proj": (4, 8, 2), at + "self_attn.o_proj": (8, 8, 2),
                   at + "mlp.up_proj": (12, 8, 3)}
    shapes["model.layers.1.mlp.gate_proj"] = (12, 8, 2)
    config = dict(r=2, lora_alpha=5, rank_pattern={"up_proj": 3}, target_modules=["q_proj", "v_proj", "o_proj", "up_proj",
                                                                              "1.mlp.gate_proj"])
    adapted = adapter_of(directory / "adapter", shapes, config)
    rows = {"q_proj": ("qkv_proj", slice(0, 8)), "v_proj": ("qkv_proj", slice(12, 16)), "o_proj": ("o_proj", slice(0, 8)),
            "gate_proj": ("gate_up_proj", slice(0, 12)), "up_proj": ("gate_up_proj", slice(12, 24))}
    expected = {}
    for path, layer in adapted.items():
        parent, last = path.rsplit(".", 1)
        whole, where = rows[last]
        key = f"{parent}.{whole}.weight"
        weight = expected.setdefault(key, base[key].double())
        weight[where] += 5 / layer["lora_A"].shape[0] * layer["lora_B"] @ layer["lora_A"]
    keys = dict(model_type="phi3", architectures=["Phi3ForCausalLM"], num_hidden_layers=2)
    write(directory, base, keys, {key: value.float() for key, value in expected.items()})


def make_fused_on_split(root):
    """An adapter of Phi-3's fused matrices on a base that has them apart."""
    directory = root / "layouts-phi3-fused"
    torch.manual_seed(4)
    at = "model.layers.0."
    base = {at + f"self_attn.{name}_proj.weight": torch.randn(rows, 8) * 0.2 for name, rows in (("q", 8), ("k", 4), ("v", 4))}
    base |= {at + f"mlp.{name}_proj.weight": torch.randn(12, 8) * 0.2 for name in ("gate", "up")}
    shapes = {at + "self_attn.qkv_proj": (16, 8, 2), at + "mlp.gate_up_proj": (24, 8, 2)}
    config = dict(r=2, lora_alpha=5, target_modules=["qkv_proj", "gate_up_proj"])
    adapted = adapter_of(directory / "adapter", shapes, config)
    expected, start = {}, {"self_attn": 0, "mlp": 0}
    for key, weight in base.items():
        block = key.split(".")[3]
        layer = adapted[at + ("self_attn.qkv_proj" if block == "self_attn" else "mlp.gate_up_proj")]
        rows = slice(start[block], start[block] + weight.shape[0])
        start[block] += weight.shape[0]
        expected[key] = merged(weight, {"lora_A": layer["lora_A"], "lora_B": layer["lora_B"][rows]}, 2.5)
    keys = dict(model_type="phi3", architectures=["Phi3ForCausalLM"], num_hidden_layers=1)
    write(directory, base, keys, expected)


def make_single_experts(root):
    """Adapters of single experts, as others than transformers make them, on gpt-oss, which stacks [experts, in, out]."""
    directory = root / "layouts-gpt-oss-single-experts"
    torch.manual_seed(5)
    at = "model.layers.0.mlp.experts."
    base = {at + "gate_up_proj": torch.randn(3, 8, 12) * 0.2, at + "down_proj": torch.randn(3, 8, 8) * 0.2,
            at + "gate_up_proj_bias": torch.randn(3, 12), "model.layers.0.self_attn.q_proj.weight": torch.randn(8, 8)}
    shapes = {"model.layers.0.self_attn.q_proj": (8, 8, 2)}
    shapes |= {at + f"gate_up_projs.{expert}": (12, 8, 2) for expert in range(3)}
    # One of the experts has none.
    shapes |= {at + f"down_projs.{expert}": (8, 8, 2) for expert in (0, 2)}
    targets = ["q_proj", *(f"gate_up_projs.{expert}" for expert in range(3)), "down_projs.0", "down_projs.2"]
    adapted = adapter_of(directory / "adapter", shapes, dict(r=2, lora_alpha=3, target_modules=targets))
    expected = {}
    for path, layer in adapted.items():
        if path.endswith("q_proj"):
            expected[path + ".weight"] = merged(base[path + ".weight"], layer, 1.5)
            continue
        stack, expert = re.fullmatch(r"(.*)s\.(\d+)", path).groups()
        weight = expected.setdefault(stack, base[stack].double())
        weight[int(expert)] += 1.5 * (layer["lora_B"] @ layer["lora_A"]).T
    keys = dict(model_type="gpt_oss", architectures=["GptOssForCausalLM"], num_hidden_layers=1)
    write(directory, base, keys, {key: value.float() for key, value in expected.items()})


def make_experts_of_matrices(root):
    """Adapters of the matrices of single experts, as transformers 4 has them, on a base that has the experts stacked."""
    directory = root / "layouts-stacked-single-matrices"
    torch.manual_seed(6)
    at = "model.layers.0.mlp.experts."
    base = {at + "gate_up_proj": torch.randn(2, 12, 8) * 0.2, at + "down_proj": torch.randn(2, 8, 6) * 0.2}
    shapes = {at + f"{expert}.{name}_proj": (6, 8, 2) for expert in range(2) for name in ("gate", "up")}
    shapes |= {at + f"{expert}.down_proj": (8, 6, 2) for expert in range(2)}
    config = dict(r=2, lora_alpha=3, use_rslora=True, target_modules=["gate_proj", "up_proj", "down_proj"])
    adapted = adapter_of(directory / "adapter", shapes, config)
    expected = {key: value.double() for key, value in base.items()}
    for path, layer in adapted.items():
        expert, name = path.removeprefix(at).split(".")
        rows = {"gate_proj": slice(0, 6), "up_proj": slice(6, 12), "down_proj": slice(0, 8)}[name]
        stack = at + ("down_proj" if name == "down_proj" else "gate_up_proj")
        expected[stack][int(expert), rows] += 3 / 2**0.5 * layer["lora_B"] @ layer["lora_A"]
    keys = dict(model_type="qwen3_moe", architectures=["Qwen3MoeForCausalLM"], num_hidden_layers=1)
    write(directory, base, keys, {key: value.float() for key, value in expected.items()})


def make_old_names(root, name, source, rename):
    """The adapter of a case with the names that the class had before transformers 4.52."""
    directory = root / f"layouts-{name}"
    shutil.copytree(root / f"layouts-{source}", directory)
    path = directory / "adapter" / "adapter_model.safetensors"
    tensors = {key: value for key, value in load_file(path).items()}
    save_file({re.sub(*rename[0], re.sub(*rename[1], key)): value for key, value in tensors.items()}, path, {"format": "pt"})


def make_all(root):
    for case in CASES:
        make(root, *case)
        print(case[0], flush=True)
    for case in TEXT_CASES:
        make_text(root, *case)
    at = r"^base_model\.model\."
    make_old_names(root, "qwen2-5-vl-old-adapter", "qwen2-5-vl-class-names", [
        (at + r"model\.language_model\.", "base_model.model.model."), (at + r"model\.visual\.", "base_model.model.visual.")])
    make_old_names(root, "gemma3-old-adapter", "gemma3-class-names", [
        (at + r"model\.language_model\.", "base_model.model.language_model.model."),
        (at + r"model\.vision_tower\.", "base_model.model.vision_tower.vision_model.")])
    make_split_on_fused(root)
    make_fused_on_split(root)
    make_single_experts(root)
    make_experts_of_matrices(root)


def main():
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if sys.argv[1:] == ["--check"]:
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            make_all(root)
            files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
            changed = [str(path) for path in files if not filecmp.cmp(root / path, PUBLIC / path, shallow=False)]
            there = {str(path.relative_to(PUBLIC)) for path in PUBLIC.glob("layouts-*/**/*") if path.is_file()}
            changed += sorted(there - set(map(str, files)))
            sys.exit("\n".join(changed) or None)
    for old in PUBLIC.glob("layouts-*"):
        shutil.rmtree(old)
    make_all(PUBLIC)


if __name__ == "__main__":
    main()
