"""Makes pairs of checkpoints, a base and a full fine-tune of it, for extraction.

    pip install -r requirements.txt
    python generate_extract.py                    # writes public/extract-*/
    python generate_extract.py --check DIRECTORY  # lets PEFT load what the tests of extraction wrote there

Every parameter of the tuned model differs from the base's. The check builds each base's class as transformers does, loads the
adapter into it with PEFT, merges, and compares with the tuned model: whole tensors bit for bit, the others within the error
that the extraction reported (`errors.json` beside the adapter).
"""

import json
import os
import pathlib
import shutil
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

PUBLIC = pathlib.Path(__file__).parent / "public"
TEXT = dict(
    vocab_size=32, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=8, max_position_embeddings=32, pad_token_id=None, bos_token_id=1, eos_token_id=2,
)
VISION = dict(hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)

# name, class, configuration, dtype
CASES = [
    ("llama", "LlamaForCausalLM", dict(tie_word_embeddings=False, **TEXT), torch.float32),
    ("llama-tied", "LlamaForCausalLM", dict(tie_word_embeddings=True, **TEXT), torch.bfloat16),
    ("gpt2", "GPT2LMHeadModel", dict(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2,
    ), torch.float32),
    ("vit", "ViTForImageClassification", dict(num_labels=3, **VISION), torch.float32),
    ("mamba", "MambaForCausalLM", dict(
        vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=2, pad_token_id=0, bos_token_id=0,
        eos_token_id=0,
    ), torch.float32),
    ("wav2vec2", "Wav2Vec2ForCTC", dict(
        vocab_size=16, hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        conv_dim=[8, 8], conv_kernel=[4, 2], conv_stride=[2, 2], num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    ), torch.float32),
    ("qwen3-5", "Qwen3_5ForConditionalGeneration", dict(
        tie_word_embeddings=True, image_token_id=30, video_token_id=29, vision_start_token_id=28, vision_end_token_id=27,
        text_config=dict(
            tie_word_embeddings=True, layer_types=["linear_attention", "full_attention"], linear_conv_kernel_dim=4,
            linear_key_head_dim=4, linear_num_key_heads=2, linear_num_value_heads=2, linear_value_head_dim=4, **TEXT,
        ),
        vision_config=dict(
            depth=1, hidden_size=16, intermediate_size=12, num_heads=2, out_hidden_size=16, patch_size=2,
            temporal_patch_size=1, num_position_embeddings=4, spatial_merge_size=2,
        ),
    ), torch.float32),
    ("gpt-oss", "GptOssForCausalLM", dict(
        num_local_experts=3, num_experts_per_tok=2, sliding_window=8, tie_word_embeddings=False,
        layer_types=["sliding_attention", "full_attention"], **TEXT,
    ), torch.float32),
    ("mixtral", "MixtralForCausalLM", dict(
        num_local_experts=3, num_experts_per_tok=2, tie_word_embeddings=False, **TEXT,
    ), torch.float32),
    # Shared experts and a dense layer beside experts.
    ("deepseek-v3", "DeepseekV3ForCausalLM", dict(
        n_routed_experts=4, n_shared_experts=1, n_group=1, topk_group=1, num_experts_per_tok=2, moe_intermediate_size=8,
        first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8,
        tie_word_embeddings=False, **TEXT,
    ), torch.float32),
    # A head that the files have inside the language model.
    ("llava", "LlavaForConditionalGeneration", dict(
        image_token_index=30, text_config=dict(model_type="llama", tie_word_embeddings=False, **TEXT),
        vision_config=dict(model_type="clip_vision_model", **VISION), tie_word_embeddings=False,
    ), torch.float32),
    ("gemma3", "Gemma3ForConditionalGeneration", dict(
        mm_tokens_per_image=4, image_token_index=30, boi_token_index=29, eoi_token_index=28,
        text_config=dict(sliding_window=8, query_pre_attn_scalar=8, **TEXT),
        vision_config=dict(model_type="siglip_vision_model", **VISION),
    ), torch.float32),
    ("convnext", "ConvNextForImageClassification", dict(
        hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2, image_size=8, num_labels=3,
    ), torch.float32),
    ("added-tokens", "LlamaForCausalLM", dict(tie_word_embeddings=False, **TEXT), torch.float32),
    ("added-tokens-tied", "LlamaForCausalLM", dict(tie_word_embeddings=True, **TEXT), torch.float32),
    # Files of the tuned model have a copy of the tied head, buffers of old versions, and another element type.
    ("other-files", "LlamaForCausalLM", dict(tie_word_embeddings=True, **TEXT), torch.float32),
]


def build(class_name, config):
    cls = getattr(transformers, class_name)
    return cls(cls.config_class(**config))


def moved(model, amount):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * amount


def save(model, directory):
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)


def make(name, class_name, config, dtype):
    torch.manual_seed(sum(map(ord, name)))
    model = build(class_name, config).to(dtype)
    moved(model, 0.1)
    directory = PUBLIC / f"extract-{name}"
    save(model, directory / "base")
    if name.startswith("added-tokens"):
        model.resize_token_embeddings(34, mean_resizing=False)
    moved(model, 0.02)
    save(model, directory / "tuned")
    if name == "other-files":
        path = directory / "tuned" / "model.safetensors"
        tensors = load_file(path)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        base = load_file(directory / "base" / "model.safetensors")
        # The same in another type.
        for key in ("model.norm.weight", "model.layers.0.mlp.up_proj.weight"):
            tensors[key] = base[key].to(torch.bfloat16)
        save_file(tensors, path, metadata={"format": "pt"})


def check(directory):
    for name, class_name, *_ in CASES:
        adapter = directory / name
        errors = json.loads((adapter / "errors.json").read_text())
        cls = getattr(transformers, class_name)
        model = cls.from_pretrained(PUBLIC / f"extract-{name}" / "base", dtype=torch.float32)
        tuned = cls.from_pretrained(PUBLIC / f"extract-{name}" / "tuned", dtype=torch.float32)
        if name.startswith("added-tokens"):
            model.resize_token_embeddings(34, mean_resizing=False)
        original = {key: value.clone() for key, value in model.state_dict().items()}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(model, adapter)
        said = [str(warning.message) for warning in caught if "missing adapter keys" in str(warning.message)]
        assert not said, (name, said)
        found, wanted = adapted.merge_and_unload().state_dict(), tuned.state_dict()
        assert found.keys() == wanted.keys(), (name, found.keys() ^ wanted.keys())
        factored = 0
        for key, tensor in wanted.items():
            reported = errors.get(key.removesuffix(".weight"), errors.get(key))
            left = (found[key].double() - tensor.double()).norm()
            if reported is None:
                same_in_type = name == "other-files" and torch.equal(tensor, original[key].to(torch.bfloat16).float())
                assert torch.equal(found[key], tensor) or same_in_type, (name, key, left)
            else:
                factored += 1
                norm = (tensor.double() - original[key].double()).norm()
                assert left <= reported * norm * 1.001 + 1e-6 * tensor.double().norm(), (name, key, left, reported * norm)
        assert factored == len(errors), (name, factored, len(errors))
        print(f"{name}: {factored} with factors, {len(wanted) - factored} others")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    if "--check" in sys.argv:
        check(pathlib.Path(sys.argv[sys.argv.index("--check") + 1]))
    else:
        for case in CASES:
            shutil.rmtree(PUBLIC / f"extract-{case[0]}", ignore_errors=True)
            make(*case)
