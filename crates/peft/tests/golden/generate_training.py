"""Makes `training.safetensors` and `training.json` of some golden cases: what PEFT computes in training, beyond the
forwards and gradients of linear layers and embeddings that generate.py keeps.

    pip install -r requirements.txt
    python generate_training.py

For each layer and run, by `run.layer.part`: input, output, gradient of the output, gradients of the input, A, B, B's
bias, the base's bias and DoRA's magnitudes. Runs with dropout have lora-kernels' mask (see its `Dropout`) in place of
PyTorch's. Convolutions get another stride and padding than the model gives them, and in runs without dropout a dilation, which
`training.json` holds. PEFT forgets the dilation when it makes A; there A gets it, as PEFT's merge has it.
"""

import json
import math
import warnings

import numpy
import torch
from generate import CASES, adapter_directories, layer_input, load_adapters
from safetensors.torch import save_file
from torch import nn

PROBABILITY, SEED, OFFSET = 0.3, 0x1234_5678_9ABC_DEF0, 7
THRESHOLD = round(PROBABILITY * 65536)
CASES_OF_RUNS = {
    "plain": ["conv", "conv-bias", "conv-dora", "conv-bf16", "llama-lora-bias", "llama-bias-all", "llama-bf16-bias", "bert-query"],
    "dropout": ["conv", "conv-dora", "conv-bf16", "llama-attention", "llama-dora", "llama-bf16-dora", "gpt2-mlp-dora"],
}
LAYERS_OF_A_CASE = 2
GEOMETRY = {
    1: dict(stride=(2,), padding=(3,), dilation=(2,)),
    2: dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
}


def philox(counter, key):
    """Philox4x32-10; four arrays of counters, two words of key."""
    counter = [numpy.asarray(word, dtype=numpy.uint64) for word in counter]
    mask = numpy.uint64(0xFFFFFFFF)
    for _ in range(10):
        first = counter[0] * numpy.uint64(0xD2511F53)
        second = counter[2] * numpy.uint64(0xCD9E8D57)
        counter = [
            (second >> numpy.uint64(32)) ^ counter[1] ^ numpy.uint64(key[0]),
            second & mask,
            (first >> numpy.uint64(32)) ^ counter[3] ^ numpy.uint64(key[1]),
            first & mask,
        ]
        key = ((key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF)
    return counter


def kept(rows, columns):
    row, block = numpy.meshgrid(numpy.arange(rows), numpy.arange(math.ceil(columns / 8)), indexing="ij")
    zeros = numpy.zeros_like(row)
    words = philox([block, row, zeros + (OFFSET & 0xFFFFFFFF), zeros + (OFFSET >> 32)], (SEED & 0xFFFFFFFF, SEED >> 32))
    draws = [(word >> numpy.uint64(16 * half)) & numpy.uint64(0xFFFF) for word in words for half in range(2)]
    return (numpy.stack(draws, -1) >= THRESHOLD).reshape(rows, -1)[:, :columns]


class Mask(nn.Module):
    def forward(self, x):
        rows = x.shape[0]
        keep = torch.from_numpy(kept(rows, x.numel() // rows)).reshape(x.shape)
        return x * keep.to(x.dtype) * (65536 / (65536 - THRESHOLD))


def set_geometry(layer, dilated):
    base = layer.get_base_layer()
    kernel = base.kernel_size
    geometry = dict(GEOMETRY[len(kernel)])
    if not dilated:
        geometry["dilation"] = (1,) * len(kernel)
    for convolution in [base, *layer.lora_A.values()]:
        for name, values in geometry.items():
            setattr(convolution, name, values)
        convolution._reversed_padding_repeated_twice = [p for p in reversed(geometry["padding"]) for _ in range(2)]
    return {name: list(values) for name, values in geometry.items()}


def run(layer, path, name, tensors):
    base = layer.get_base_layer()
    facts = {}
    if isinstance(base, (nn.Conv1d, nn.Conv2d)):
        facts["geometry"] = set_geometry(layer, dilated=name == "plain")
    if name == "dropout":
        facts["dropout"] = dict(probability=PROBABILITY, seed=SEED, offset=OFFSET)
        for adapter in layer.lora_dropout:
            layer.lora_dropout[adapter] = Mask()
    layer.train(name == "dropout")
    torch.manual_seed(5)
    x = layer_input(layer, path).requires_grad_()
    y = layer(x)
    dy = torch.randn_like(y)
    (y * dy).sum().backward()
    (adapter,) = layer.lora_A
    found = dict(x=x, y=y, dy=dy, dx=x.grad, a=layer.lora_A[adapter].weight.grad, b=layer.lora_B[adapter].weight.grad)
    if layer.lora_B[adapter].bias is not None:
        found["lora_bias"] = layer.lora_B[adapter].bias.grad
    if base.bias is not None:
        found["bias"] = base.bias.grad
    if adapter in layer.lora_magnitude_vector:
        found["magnitude"] = layer.lora_magnitude_vector[adapter].weight.grad
    for part, tensor in found.items():
        tensors[f"{name}.{path}.{part}"] = tensor.detach().contiguous()
    return facts


def main():
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for case in sorted({case for cases in CASES_OF_RUNS.values() for case in cases}):
        directory = CASES / case
        assert len(adapter_directories(directory)) == 1
        facts = json.loads((directory / "case.json").read_text())
        tensors, runs = {}, {}
        for name, cases in CASES_OF_RUNS.items():
            if case not in cases:
                continue
            model = load_adapters(directory, facts["model"], facts["dtype"], {})
            for parameter in model.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            layers = [
                (path, layer)
                for path, layer in model.base_model.model.named_modules()
                if hasattr(layer, "lora_A") and not isinstance(layer.get_base_layer(), nn.Embedding)
            ]
            for path, layer in layers[:LAYERS_OF_A_CASE] if "conv" not in case else layers:
                runs[f"{name}.{path}"] = run(layer, path, name, tensors)
                model.zero_grad()
        save_file(tensors, directory / "training.safetensors")
        (directory / "training.json").write_text(json.dumps(runs, indent=1) + "\n")
        print(case)


if __name__ == "__main__":
    main()
