"""Writes golden.safetensors: what PyTorch autograd and PEFT's LoRA layer compute for small layers, on the CPU.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python generate.py

The inputs are multiples of 1/64 from a small generator of our own, so that every element type holds them exactly and
no library's random numbers matter.
"""

import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

ROWS, IN, OUT, RANK, ALPHA = 9, 22, 19, 6, 4

# name, element type, whether PEFT keeps the adapter in f32, rsLoRA's scale, bias
CASES = [
    ("f32", torch.float32, True, False, False),
    ("f32_rslora_bias", torch.float32, True, True, True),
    ("bf16", torch.bfloat16, False, False, False),
    ("bf16_rslora_bias", torch.bfloat16, False, True, True),
    ("bf16_f32_adapter", torch.bfloat16, True, False, False),
    ("bf16_f32_adapter_rslora_bias", torch.bfloat16, True, True, True),
]


class Numbers:
    """A linear congruential generator (Knuth's MMIX constants)."""

    def __init__(self, seed):
        self.state = seed

    def tensor(self, *shape, dtype):
        values = []
        for _ in range(torch.Size(shape).numel()):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
            values.append(((self.state >> 33) % 129 - 64) / 64)
        return torch.tensor(values, dtype=torch.float64).reshape(shape).to(dtype)


def case(number, dtype, f32_adapter, rslora, bias):
    numbers = Numbers(number)
    model = torch.nn.Sequential(torch.nn.Linear(IN, OUT, bias=bias, dtype=dtype))
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=["0"], use_rslora=rslora, init_lora_weights=False
    )
    model = get_peft_model(model, config, autocast_adapter_dtype=f32_adapter)
    layer = model.base_model.model[0]
    lora_a, lora_b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    w = layer.base_layer.weight
    adapter_dtype = torch.float32 if f32_adapter else dtype
    assert lora_a.dtype == lora_b.dtype == adapter_dtype
    with torch.no_grad():
        for parameter in [w, lora_a, lora_b] + ([layer.base_layer.bias] if bias else []):
            parameter.copy_(numbers.tensor(*parameter.shape, dtype=parameter.dtype))
    if bias:
        layer.base_layer.bias.requires_grad_(True)

    x = numbers.tensor(ROWS, IN, dtype=dtype).requires_grad_(True)
    dy = numbers.tensor(ROWS, OUT, dtype=dtype)
    y = model(x)
    y.backward(dy)
    tensors = {
        "x": x, "w": w, "lora_a": lora_a, "lora_b": lora_b, "dy": dy,
        "scale": torch.tensor([[layer.scaling["default"]]], dtype=torch.float32),
        "y": y, "dx": x.grad, "da": lora_a.grad, "db": lora_b.grad,
        "delta": layer.get_delta_weight("default"),
    }
    if bias:
        tensors["bias"] = layer.base_layer.bias.reshape(1, OUT)
        tensors["dbias"] = layer.base_layer.bias.grad.reshape(1, OUT)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    layer.merge()
    tensors["merged"] = layer.base_layer.weight.detach().clone().contiguous()
    return tensors


def main():
    torch.set_num_threads(1)
    tensors = {}
    for number, (name, *settings) in enumerate(CASES):
        for key, tensor in case(number + 1, *settings).items():
            tensors[f"{name}.{key}"] = tensor
    save_file(tensors, pathlib.Path(__file__).with_name("golden.safetensors"))


main()
