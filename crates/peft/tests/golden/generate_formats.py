"""Makes the golden cases of foreign adapter formats and of quantised bases.

    python generate_formats.py           # writes public/format-*, public/quant-*
    python generate_formats.py --check   # compares what is there with what would be written

torch and safetensors are all that is needed. Each case is a directory: `base/`, `adapter/` (or `adapter.safetensors`) and
`expected/model.safetensors`, whose values are float64 computations of this script, rounded once: W + (alpha / r)·B·A, and the
public definitions of the quantised formats (DeepSeek-V3's weight_dequant, compressed-tensors, bitsandbytes 0.45's blockwise
dequantisation, AutoGPTQ's and AutoAWQ's packing, OCP MX 1.0 and transformers' convert_moe_packed_tensors).
"""

import filecmp
import json
import pathlib
import shutil
import sys
import tempfile

import torch
from safetensors.torch import save_file

PUBLIC = pathlib.Path(__file__).parent / "public"
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 32,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}
PEFT = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none",
    "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM",
}
LINEAR = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}


class Case:
    """A directory with the files of one case."""

    def __init__(self, root, name):
        self.directory = root / name
        self.random = torch.Generator().manual_seed(sum(map(ord, name)))

    def tensor(self, *shape, dtype=torch.float32, scale=1.0):
        return (torch.randn(*shape, generator=self.random, dtype=torch.float64) * scale).to(dtype).contiguous()

    def codes(self, low, high, *shape, dtype=torch.int64):
        return torch.randint(low, high, shape, generator=self.random).to(dtype)

    def save(self, path, tensors, metadata=None):
        path = self.directory / path
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)

    def json(self, path, value):
        path = self.directory / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1) + "\n")


def merged(weight, down, up, scale, dtype=None):
    """W + scale·up·down in float64, rounded once."""
    weight64, down, up = weight.double(), down.double(), up.double()
    if down.ndim > 2:
        rank = down.shape[0]
        delta = (up.reshape(-1, rank) @ down.reshape(rank, -1)).reshape(weight.shape)
    else:
        delta = (up @ down).reshape(weight.shape)
    return (weight64 + scale * delta).to(dtype or weight.dtype)


# ---------------------------------------------------------------- adapters

UNET = {
    "conv_in": (16, 4, 3, 3),
    "down_blocks.0.resnets.0.conv1": (16, 16, 3, 3),
    "down_blocks.0.attentions.0.proj_in": (16, 16, 1, 1),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (16, 16),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": (16, 16),
    "down_blocks.0.downsamplers.0.conv": (16, 16, 3, 3),
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": (32, 16),
    "up_blocks.0.resnets.1.conv_shortcut": (16, 32, 1, 1),
}
LDM = {  # as sd-scripts calls them in files for SDXL
    "conv_in": "input_blocks_0_0",
    "down_blocks.0.resnets.0.conv1": "input_blocks_1_0_in_layers_2",
    "down_blocks.0.attentions.0.proj_in": "input_blocks_1_1_proj_in",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks_1_1_transformer_blocks_0_attn1_to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0":
        "input_blocks_1_1_transformer_blocks_0_attn1_to_out_0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": "middle_block_1_transformer_blocks_0_ff_net_0_proj",
    "up_blocks.0.resnets.1.conv_shortcut": "output_blocks_1_0_skip_connection",
}


def unet(case, dtype=torch.float32):
    base = {f"{module}.weight": case.tensor(*shape, dtype=dtype) for module, shape in UNET.items()}
    case.save("base/diffusion_pytorch_model.safetensors", base, {"format": "pt"})
    case.json("base/config.json", {"_class_name": "UNet2DConditionModel", "layers_per_block": 2})
    return base


def factors(case, shape, rank, dtype=torch.float32, linear=False):
    down = [rank, *shape[1:]] if len(shape) > 2 and not linear else [rank, shape[1]]
    up = [shape[0], rank] + [1] * (len(down) - 2)
    return case.tensor(*down, dtype=dtype, scale=0.3), case.tensor(*up, dtype=dtype, scale=0.3)


def kohya(case, names, alphas, dtype):
    base = unet(case, dtype)
    tensors, expected = {}, dict(base)
    for index, (module, shape) in enumerate(UNET.items()):
        rank = 2 if index % 2 else 4
        alpha = alphas[index % len(alphas)]
        down, up = factors(case, shape, rank, dtype)
        name = f"lora_unet_{names(module)}"
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha), dtype=dtype)
        scale = 1.0 if alpha is None else alpha / rank
        expected[f"{module}.weight"] = merged(base[f"{module}.weight"], down, up, scale)
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    tensors |= {
        f"{name}.lora_down.weight": case.tensor(4, 8, dtype=dtype), f"{name}.lora_up.weight": case.tensor(8, 4, dtype=dtype),
        f"{name}.alpha": torch.tensor(1.0, dtype=dtype),
    }
    case.save("adapter.safetensors", tensors, {"ss_network_module": "networks.lora"})
    case.save("expected/model.safetensors", expected)


def format_kohya(case):
    kohya(case, lambda module: module.replace(".", "_"), [2, 1, 4], torch.float32)


def format_kohya_sdxl_names(case):
    kohya(case, LDM.get, [1, None, 8], torch.float16)


def format_kohya_tucker(case):
    """LyCORIS' LoCon with a kernel between A and B."""
    base = unet(case)
    module = "down_blocks.0.resnets.0.conv1"
    name = f"lora_unet_{module.replace('.', '_')}"
    down, middle, up = case.tensor(3, 16, 1, 1), case.tensor(3, 3, 3, 3), case.tensor(16, 3, 1, 1)
    case.save("adapter.safetensors", {
        f"{name}.lora_down.weight": down, f"{name}.lora_mid.weight": middle, f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(1.5),
    })
    delta = torch.einsum(
        "op,pqhw,qi->oihw", up.double()[:, :, 0, 0], middle.double(), down.double()[:, :, 0, 0])
    weight = base[f"{module}.weight"]
    case.save("expected/model.safetensors", base | {f"{module}.weight": (weight.double() + 0.5 * delta).float()})


def diffusers(case, spell, metadata=None, scale=1.0):
    base = unet(case)
    tensors, expected = {}, dict(base)
    for module, shape in UNET.items():
        down, up = factors(case, shape, 4, linear=shape[2:] == (1, 1))
        one, two = spell(module)
        tensors |= {one: down, two: up}
        expected[f"{module}.weight"] = merged(base[f"{module}.weight"], down, up, scale)
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    tensors |= {f"{name}.lora_A.weight": case.tensor(4, 8), f"{name}.lora_B.weight": case.tensor(8, 4)}
    case.save("adapter/pytorch_lora_weights.safetensors", tensors, metadata)
    case.save("expected/model.safetensors", expected)


def format_diffusers(case):
    diffusers(case, lambda module: (f"unet.{module}.lora_A.weight", f"unet.{module}.lora_B.weight"))


def format_diffusers_old_names(case):
    def spell(module):
        if "attn1" in module:
            parent, _, last = module.removesuffix(".0" if module.endswith("to_out.0") else "").rpartition(".")
            start = f"unet.{parent}.processor.{last}_lora"
        else:
            start = f"unet.{module}.lora"
        return f"{start}.down.weight", f"{start}.up.weight"
    diffusers(case, spell)


def format_diffusers_metadata(case):
    keys = {"unet.r": 4, "unet.lora_alpha": 3, "unet.use_rslora": True, "text_encoder.r": 4, "text_encoder.lora_alpha": 4}
    diffusers(
        case, lambda module: (f"unet.{module}.lora_A.weight", f"unet.{module}.lora_B.weight"),
        {"lora_adapter_metadata": json.dumps(keys)}, scale=1.5,
    )


def format_flux_fused(case):
    """A kohya file of Flux, whose query, key and value are one matrix, for diffusers' transformer."""
    double = "transformer_blocks.0.attn"
    single = "single_transformer_blocks.0"
    shapes = {
        f"{double}.to_q": (8, 8), f"{double}.to_k": (8, 8), f"{double}.to_v": (8, 8), f"{double}.to_out.0": (8, 8),
        f"{double}.add_q_proj": (8, 8), f"{double}.add_k_proj": (8, 8), f"{double}.add_v_proj": (8, 8),
        "transformer_blocks.0.ff.net.0.proj": (32, 8), "transformer_blocks.0.norm1.linear": (48, 8),
        f"{single}.attn.to_q": (8, 8), f"{single}.attn.to_k": (8, 8), f"{single}.attn.to_v": (8, 8),
        f"{single}.proj_mlp": (32, 8), f"{single}.proj_out": (8, 40), "x_embedder": (8, 6),
    }
    base = {f"{module}.weight": case.tensor(*shape, dtype=torch.bfloat16) for module, shape in shapes.items()}
    case.save("base/diffusion_pytorch_model.safetensors", base, {"format": "pt"})
    case.json("base/config.json", {"_class_name": "FluxTransformer2DModel"})
    originals = {
        "double_blocks_0_img_attn_qkv": [f"{double}.to_q", f"{double}.to_k", f"{double}.to_v"],
        "double_blocks_0_txt_attn_qkv": [f"{double}.add_q_proj", f"{double}.add_k_proj", f"{double}.add_v_proj"],
        "double_blocks_0_img_attn_proj": [f"{double}.to_out.0"],
        "double_blocks_0_img_mlp_0": ["transformer_blocks.0.ff.net.0.proj"],
        "double_blocks_0_img_mod_lin": ["transformer_blocks.0.norm1.linear"],
        "single_blocks_0_linear1": [f"{single}.attn.to_q", f"{single}.attn.to_k", f"{single}.attn.to_v", f"{single}.proj_mlp"],
        "single_blocks_0_linear2": [f"{single}.proj_out"],
        "img_in": ["x_embedder"],
    }
    tensors, expected = {}, dict(base)
    for name, modules in originals.items():
        rows = sum(shapes[module][0] for module in modules)
        down, up = factors(case, (rows, shapes[modules[0]][1]), 4, torch.bfloat16)
        tensors |= {
            f"lora_unet_{name}.lora_down.weight": down, f"lora_unet_{name}.lora_up.weight": up,
            f"lora_unet_{name}.alpha": torch.tensor(2.0, dtype=torch.bfloat16),
        }
        start = 0
        for module in modules:
            end = start + shapes[module][0]
            expected[f"{module}.weight"] = merged(base[f"{module}.weight"], down, up[start:end], 0.5)
            start = end
    case.save("adapter.safetensors", tensors)
    case.save("expected/model.safetensors", expected)


def llama(case, dtype):
    base = {
        "model.embed_tokens.weight": case.tensor(32, 16, dtype=dtype), "lm_head.weight": case.tensor(32, 16, dtype=dtype),
        "model.norm.weight": case.tensor(16, dtype=dtype),
    }
    for name, shape in LINEAR.items():
        base[f"model.layers.0.self_attn.{name}.weight"] = case.tensor(*shape, dtype=dtype)
    return base


def mlx(case, kind, scale, dtype):
    base = llama(case, dtype)
    case.save("base/model.safetensors", base, {"format": "pt"})
    case.json("base/config.json", LLAMA)
    tensors, expected = {}, dict(base)
    for name in ["q_proj", "v_proj"]:
        module = f"model.layers.0.self_attn.{name}"
        out, size = LINEAR[name]
        a, b = case.tensor(size, 4, scale=0.3), case.tensor(4, out, scale=0.3)
        tensors |= {f"{module}.lora_a": a, f"{module}.lora_b": b}
        new = base[f"{module}.weight"].double() + scale * (a.double() @ b.double()).T
        if kind == "dora":
            magnitude = case.tensor(out).abs() + 1
            tensors[f"{module}.m"] = magnitude
            new = magnitude.double()[:, None] * new / new.norm(dim=1, keepdim=True)
        expected[f"{module}.weight"] = new.to(dtype)
    case.save("adapter/adapters.safetensors", tensors, {"format": "mlx"})
    case.json("adapter/adapter_config.json", {
        "fine_tune_type": kind, "num_layers": 1, "model": "org/tiny",
        "lora_parameters": {"rank": 4, "scale": scale, "dropout": 0.05, "keys": ["self_attn.q_proj", "self_attn.v_proj"]},
    })
    case.save("expected/model.safetensors", expected)


def format_mlx(case):
    mlx(case, "lora", 20.0, torch.bfloat16)


def format_mlx_dora(case):
    mlx(case, "dora", 2.0, torch.float32)


def peft_factors(case):
    tensors = {}
    for name in PEFT["target_modules"]:
        out, size = LINEAR[name]
        module = f"base_model.model.model.layers.0.self_attn.{name}"
        tensors |= {
            f"{module}.lora_A.weight": case.tensor(4, size, scale=0.3),
            f"{module}.lora_B.weight": case.tensor(out, 4, scale=0.3),
        }
    return tensors


def with_peft(weights, tensors, dtype):
    """The plain weights, those of the adapter's modules merged; all rounded once."""
    expected = {}
    for name, weight in weights.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in tensors:
            expected[name] = merged(weight, tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"], 2.0, dtype)
        else:
            expected[name] = weight.to(dtype)
    return expected


def format_peft_pickled(case):
    """adapter_model.bin, which torch.save wrote."""
    base = llama(case, torch.float32)
    case.save("base/model.safetensors", base)
    case.json("base/config.json", LLAMA)
    tensors = peft_factors(case)
    case.json("adapter/adapter_config.json", PEFT)
    torch.save(tensors, case.directory / "adapter" / "adapter_model.bin")
    case.save("expected/model.safetensors", with_peft(base, tensors, torch.float32))


def format_peft_sharded(case):
    base = llama(case, torch.float32)
    case.save("base/model.safetensors", base)
    case.json("base/config.json", LLAMA)
    tensors = peft_factors(case)
    case.json("adapter/adapter_config.json", PEFT)
    names = sorted(tensors)
    shards = {f"adapter_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, held in shards.items():
        case.save(f"adapter/{file}", {name: tensors[name] for name in held})
    case.json("adapter/adapter_model.safetensors.index.json", {
        "metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held},
    })
    case.save("expected/model.safetensors", with_peft(base, tensors, torch.float32))


# ---------------------------------------------------------------- quantised bases

def quantized(case, quantize, config, dtype=torch.bfloat16, others=()):
    """A llama whose linear layers `quantize` stores; it returns the parts of a weight and its plain numbers in float64."""
    plain = llama(case, dtype)
    stored, weights = dict(others), {}
    for name, weight in plain.items():
        if name.endswith("_proj.weight"):
            parts, weights[name] = quantize(name.removesuffix(".weight"), weight)
            stored |= parts
        else:
            stored[name] = weights[name] = weight
    case.save("base/model.safetensors", stored, {"format": "pt"})
    case.json("base/config.json", LLAMA | {"quantization_config": config})
    tensors = peft_factors(case)
    case.save("adapter/adapter_model.safetensors", tensors)
    case.json("adapter/adapter_config.json", PEFT)
    case.save("expected/model.safetensors", with_peft(weights, tensors, torch.bfloat16) | dict(others))


def in_blocks(scale, shape, block):
    rows, columns = block
    return scale.double().repeat_interleave(rows, 0)[: shape[0]].repeat_interleave(columns, 1)[:, : shape[1]]


def fp8(case, block, name, config, dtype=torch.float8_e4m3fn, scale_dtype=torch.float32, others=()):
    def quantize(module, weight):
        rows, columns = weight.shape
        size = (rows if block[0] is None else block[0], columns if block[1] is None else block[1])
        grid = (-(-rows // size[0]), -(-columns // size[1]))
        scale = (case.tensor(*grid).abs() * 0.02 + 0.001).to(scale_dtype)
        codes = (weight.double() / in_blocks(scale.float(), weight.shape, size)).clamp(-400, 400).to(dtype)
        plain = codes.double() * in_blocks(scale.float(), weight.shape, size)
        stored = scale.reshape(()) if block == (None, None) and name == "weight_scale" else scale
        parts = {f"{module}.weight": codes, f"{module}.{name}": stored}
        if name == "weight_scale":
            parts[f"{module}.input_scale"] = torch.tensor(0.5)
        return parts, plain
    quantized(case, quantize, config, others=others)


def quant_fp8_block(case):
    # DeepSeek-V3's biases of the choice between experts stay in float32.
    others = {"model.layers.0.mlp.gate.e_score_correction_bias": case.tensor(4)}
    fp8(case, (8, 12), "weight_scale_inv", {"quant_method": "fp8", "weight_block_size": [8, 12]}, others=others)


def quant_fp8_block_bf16_scales(case):
    fp8(case, (128, 128), "weight_scale_inv", {"quant_method": "fp8"}, scale_dtype=torch.bfloat16)


def quant_fp8_row(case):
    fp8(case, (1, None), "weight_scale", {"quant_method": "fbgemm_fp8"})


def quant_fp8_tensor(case):
    fp8(case, (None, None), "weight_scale", {"quant_method": "compressed-tensors", "format": "float-quantized"})


def quant_fp8_e5m2(case):
    fp8(case, (1, None), "weight_scale", {"quant_method": "compressed-tensors"}, dtype=torch.float8_e5m2)


def quant_int8_bitsandbytes(case):
    def quantize(module, weight):
        largest = weight.float().abs().amax(1)
        codes = (weight.double() * 127 / largest.double()[:, None]).round().to(torch.int8)
        parts = {
            f"{module}.weight": codes, f"{module}.SCB": largest,
            f"{module}.weight_format": torch.tensor(0, dtype=torch.uint8),
        }
        return parts, codes.double() * largest.double()[:, None] / 127
    quantized(case, quantize, {"quant_method": "bitsandbytes", "load_in_8bit": True}, torch.float16)


NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]
FP4 = [0.0, 0.0052083333, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25]
FP4 += [-value for value in FP4]


def four_bit(case, kind, values, nested):
    table = torch.tensor(values, dtype=torch.float32)

    def quantize(module, weight):
        flat = weight.float().reshape(-1, 64)
        largest = flat.abs().amax(1)
        parts = {f"{module}.weight.quant_map": table.clone()}
        state = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": list(weight.shape)}
        if nested:
            offset = largest.mean().item()
            code = torch.linspace(-1, 1, 256)
            outer = (largest - offset).abs().amax().reshape(1) + 1e-3
            stored = ((largest - offset)[:, None] / outer - code).abs().argmin(1).to(torch.uint8)
            largest = code.double()[stored.long()] * outer.double() + offset
            parts |= {
                f"{module}.weight.absmax": stored, f"{module}.weight.nested_absmax": outer,
                f"{module}.weight.nested_quant_map": code.clone(),
            }
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        else:
            parts[f"{module}.weight.absmax"] = largest
        codes = (flat.double() / largest.double()[:, None])[..., None].sub(table.double()).abs().argmin(-1).reshape(-1)
        plain = (table.double()[codes].reshape(-1, 64) * largest.double()[:, None]).reshape(weight.shape)
        packed = (codes[0::2] << 4 | codes[1::2]).to(torch.uint8)[:, None]
        text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        parts |= {f"{module}.weight": packed, f"{module}.weight.quant_state.bitsandbytes__{kind}": text}
        return parts, plain

    config = {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": nested,
    }
    quantized(case, quantize, config)


def quant_nf4(case):
    four_bit(case, "nf4", NF4, nested=False)


def quant_nf4_double(case):
    four_bit(case, "nf4", NF4, nested=True)


def quant_fp4(case):
    four_bit(case, "fp4", FP4, nested=True)


def packed(codes, bits):
    """Rows of numbers as rows of 32-bit words, the first number in the lowest bits."""
    words = []
    for row in codes.tolist():
        stream = sum(int(code) << (index * bits) for index, code in enumerate(row))
        words.append([(stream >> (32 * word)) & 0xFFFFFFFF for word in range(len(row) * bits // 32)])
    return torch.tensor(words, dtype=torch.int64).to(torch.int32)


def gptq(case, bits, group, act_order, version):
    def quantize(module, weight):
        out, size = weight.shape
        groups = size // group
        codes = case.codes(0, 2**bits, out, size)
        zeros = case.codes(1, 2**bits, groups, out)
        scales = (case.tensor(groups, out).abs() * 0.05 + 0.01).half()
        order = torch.arange(size) // group
        if act_order:
            order = order[torch.randperm(size, generator=case.random)]
        plain = (scales.double()[order] * (codes.T.double() - zeros.double()[order])).T
        stored = zeros if version == 2 else zeros - 1
        parts = {
            f"{module}.qweight": packed(codes, bits).T, f"{module}.qzeros": packed(stored, bits),
            f"{module}.scales": scales, f"{module}.g_idx": order.to(torch.int32),
        }
        return parts, plain

    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": act_order, "sym": False}
    if version == 2:
        config["checkpoint_format"] = "gptq_v2"
    quantized(case, quantize, config, torch.float16)


def quant_gptq(case):
    gptq(case, 4, 8, False, 1)


def quant_gptq_act_order(case):
    gptq(case, 4, 4, True, 1)


def quant_gptq_v2_8_bits(case):
    gptq(case, 8, 16, False, 2)


def quant_awq(case):
    def quantize(module, weight):
        out, size = weight.shape
        groups = size // 8
        codes, zeros = case.codes(0, 16, size, out), case.codes(0, 16, groups, out)
        scales = (case.tensor(groups, out).abs() * 0.05 + 0.01).half()
        order = torch.arange(size) // 8
        plain = (scales.double()[order] * (codes.double() - zeros.double()[order])).T
        # AutoAWQ packs columns 0, 2, 4, 6, 1, 3, 5, 7 of eight into a word, the first in its lowest bits.
        shuffled = lambda values: packed(values.reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(values.shape), 4)
        parts = {f"{module}.qweight": shuffled(codes), f"{module}.qzeros": shuffled(zeros), f"{module}.scales": scales}
        return parts, plain

    config = {"quant_method": "awq", "bits": 4, "group_size": 8, "zero_point": True, "version": "gemm"}
    quantized(case, quantize, config, torch.float16)


def quant_mxfp4(case):
    """gpt-oss' stacked experts, with an adapter on a parameter of theirs."""
    values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
    experts, hidden, inner = 2, 32, 64
    parts, weights = {}, {}
    for name, out, size in [("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)]:
        parameter = f"model.layers.0.mlp.experts.{name}"
        blocks = case.codes(0, 256, experts, out, size // 32, 16, dtype=torch.uint8)
        scales = case.codes(120, 130, experts, out, size // 32, dtype=torch.uint8)
        numbers = torch.stack([values[(blocks & 15).long()], values[(blocks >> 4).long()]], -1).reshape(experts, out, size // 32, 32)
        plain = (numbers.double() * 2.0 ** (scales.double() - 127)[..., None]).reshape(experts, out, size).transpose(1, 2)
        bias = case.tensor(experts, out, dtype=torch.bfloat16)
        parts |= {f"{parameter}_blocks": blocks, f"{parameter}_scales": scales, f"{parameter}_bias": bias}
        weights |= {parameter: plain, f"{parameter}_bias": bias}
    parts["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] = case.tensor(32, hidden, dtype=torch.bfloat16)
    case.save("base/model.safetensors", parts, {"format": "pt"})
    config = LLAMA | {"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "num_local_experts": experts}
    case.json("base/config.json", config | {"quantization_config": {"quant_method": "mxfp4"}})
    rank = 2
    a, b = case.tensor(experts * rank, inner, scale=0.3), case.tensor(hidden, rank * experts, scale=0.3)
    case.save("adapter/adapter_model.safetensors", {
        "base_model.model.model.layers.0.mlp.experts.lora_A.weight": a,
        "base_model.model.model.layers.0.mlp.experts.lora_B.weight": b,
    })
    case.json("adapter/adapter_config.json", PEFT | {
        "r": rank, "lora_alpha": 4, "target_modules": [], "target_parameters": ["mlp.experts.down_proj"],
    })
    delta = torch.einsum(
        "oer,erk->eko",
        b.double().reshape(hidden, rank, experts).transpose(1, 2), a.double().reshape(experts, rank, inner))
    weights["model.layers.0.mlp.experts.down_proj"] += 2.0 * delta
    case.save("expected/model.safetensors", {name: weight.to(torch.bfloat16) for name, weight in weights.items()})


CASES = [
    format_kohya, format_kohya_sdxl_names, format_kohya_tucker, format_diffusers, format_diffusers_old_names,
    format_diffusers_metadata, format_flux_fused, format_mlx, format_mlx_dora, format_peft_pickled, format_peft_sharded,
    quant_fp8_block, quant_fp8_block_bf16_scales, quant_fp8_row, quant_fp8_tensor, quant_fp8_e5m2, quant_int8_bitsandbytes,
    quant_nf4, quant_nf4_double, quant_fp4, quant_gptq, quant_gptq_act_order, quant_gptq_v2_8_bits, quant_awq, quant_mxfp4,
]


def make(root):
    for function in CASES:
        case = Case(root, function.__name__.replace("_", "-"))
        shutil.rmtree(case.directory, ignore_errors=True)
        function(case)


def differences(one, two):
    """Files that only one has, or that differ; pickles carry no fixed bytes."""
    names = lambda root: {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    found = names(one) ^ names(two)
    for name in names(one) & names(two):
        if name.suffix != ".bin" and not filecmp.cmp(one / name, two / name, shallow=False):
            found.add(name)
    return sorted(found)


def main():
    if sys.argv[1:] != ["--check"]:
        return make(PUBLIC)
    with tempfile.TemporaryDirectory() as directory:
        made = pathlib.Path(directory)
        make(made)
        wrong = []
        for function in CASES:
            name = function.__name__.replace("_", "-")
            wrong += [f"{name}/{path}" for path in differences(made / name, PUBLIC / name)]
    for path in wrong:
        print(f"differs: {path}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
